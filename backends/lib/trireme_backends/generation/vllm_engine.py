"""vLLM's engine in this process, behind the contract.

One thread owns the engine, because vLLM's ``LLMEngine`` is not thread-safe. Between steps it processes the callers'
tasks, so requests join and cancelled requests leave at the next token.

Another thread calls the sinks: sending a response waits for the server, which must not delay the next step. A step
releases the GIL while it computes.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import queue
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trireme_backends.errors import ModelError
from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import Chunk, EngineState, Sink, TokenLogprob
from trireme_backends.generation.errors import (
    CancelledError,
    EngineError,
    GenerationError,
    InvalidRequestError,
    output_token_limit,
)
from trireme_backends.generation.sampling import SamplingParameters
from trireme_backends.generation.vllm_config import VllmConfig

if TYPE_CHECKING:
    from vllm.logprobs import Logprob
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

# Time to send callers their errors before the process of a failed engine exits.
_DRAIN_SECONDS = 2.0
# Everything in the contract.
_SUPPORTED = {field.name for field in dataclasses.fields(SamplingParameters)} | {
    f"structured_outputs.{kind}" for kind in ("json", "regex", "choice", "grammar")
}


class VllmEngine:
    """An ``Engine`` that loads ``config``; requires ``enter_vllm_environment``.

    Raises:
        ModelError: an argument is unknown or invalid, or the model cannot be loaded.
    """

    def __init__(self, config: VllmConfig) -> None:
        # The imports take a second and work only in vLLM's environment.
        from vllm.engine.arg_utils import EngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.llm_engine import LLMEngine

        known = {field.name for field in dataclasses.fields(EngineArgs)}
        for name in config.arguments:
            if name not in known:
                raise ModelError(f"model.json: unknown vLLM argument '{name}'; remove it")
        try:
            self._engine = LLMEngine.from_engine_args(EngineArgs(**{"disable_log_stats": True, **config.arguments}))
            self._adapters = {
                name: LoRARequest(name, number, str(path))
                for number, (name, path) in enumerate(config.adapters.items(), 1)
            }
            # Adapters are loaded now: a failure later would end the engine and every request in it.
            for adapter in self._adapters.values():
                self._engine.add_lora(adapter)
        except Exception as error:
            raise ModelError(f"vLLM cannot load {config.arguments['model']}: {error}") from error
        self._tokenizer = self._engine.renderer.get_tokenizer()
        self._context_tokens: int = self._engine.model_config.max_model_len
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._open: dict[str, _ActiveRequest] = {}
        self._steps = 0
        self._results: queue.SimpleQueue[tuple[_ActiveRequest, Chunk | GenerationError] | None] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._call_sinks, name="vllm-responses", daemon=True)
        self._sender.start()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, sink: Sink) -> _ActiveRequest:
        """See ``Engine``."""
        sampling = request.sampling
        sampling.require(_SUPPORTED, "vllm")
        if sampling.lora_name is not None and sampling.lora_name not in self._adapters:
            listed = ", ".join(sorted(self._adapters)) or "none"
            raise InvalidRequestError(f"unknown adapter '{sampling.lora_name}'; available: {listed}", param="lora_name")
        tokens = self._tokens(request)
        parameters = self._parameters(
            sampling, output_token_limit(len(tokens), sampling.max_tokens, self._context_tokens)
        )
        running = _ActiveRequest(self, sink)
        self._tasks.put(lambda: self._add(running, tokens, parameters, sampling.lora_name))
        return running

    def state(self) -> EngineState:
        """See ``Engine``; the load of vLLM's scheduler."""
        scheduler = self._engine.engine_core.engine_core.scheduler
        running, waiting = scheduler.get_request_counts()
        return EngineState(running, waiting, scheduler.kv_cache_manager.usage, self._steps)

    def close(self) -> None:
        """See ``Engine``."""
        self._tasks.put(None)
        self._thread.join()
        self._results.put(None)
        self._sender.join()
        self._engine.engine_core.shutdown()

    def cancel(self, running: _ActiveRequest) -> None:
        """Thread-safe."""
        self._tasks.put(lambda: self._abort(running))

    def _tokens(self, request: GenerationRequest) -> list[int]:
        if request.messages is None:
            return list(self._tokenizer.encode(request.prompt))
        messages = [dataclasses.asdict(message) for message in request.messages]
        try:
            tokens = self._tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # a template may raise anything
            raise InvalidRequestError(f"the model's chat template failed: {error}", param="messages") from None
        return list(tokens)

    def _parameters(self, sampling: SamplingParameters, max_tokens: int) -> SamplingParams:
        from vllm.exceptions import VLLMClientError
        from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

        names = {field.name for field in dataclasses.fields(sampling)} - {"structured_outputs", "lora_name"}
        arguments: dict[str, Any] = {name: getattr(sampling, name) for name in names}
        arguments |= {name: list(arguments[name]) for name in ("stop", "stop_token_ids")}
        arguments |= {"max_tokens": max_tokens, "output_kind": RequestOutputKind.DELTA}
        try:
            if (outputs := sampling.structured_outputs) is not None:
                value = getattr(outputs, outputs.kind)
                form = {outputs.kind: list(value) if outputs.kind == "choice" else value}
                arguments["structured_outputs"] = StructuredOutputsParams(**form)
            return SamplingParams(**arguments)
        except VLLMClientError as error:
            raise _invalid(error, sampling.structured_outputs is not None) from None

    # The following methods run in the engine's thread.

    def _run(self) -> None:
        while self._take_tasks():
            if not self._open:
                continue
            try:
                outputs = self._engine.step()
                self._steps += 1
            except Exception as error:
                self._fail(error)
                return
            for output in outputs:
                self._take_output(output)
        for running in self._end_all():
            self._send(running, CancelledError("the model is unloaded"))

    def _take_tasks(self) -> bool:
        """Run the queued tasks; blocks while there are no requests. False when the engine closes."""
        try:
            while True:
                task = self._tasks.get(block=not self._open)
                if task is None:
                    return False
                task()
        except queue.Empty:
            return True

    def _add(self, running: _ActiveRequest, tokens: list[int], parameters: SamplingParams, adapter: str | None) -> None:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import TokensPrompt

        prompt = TokensPrompt(prompt_token_ids=tokens)
        lora = self._adapters[adapter] if adapter is not None else None
        try:
            self._engine.add_request(running.name, prompt, parameters, lora_request=lora)
        except VLLMClientError as error:
            self._send(running, _invalid(error, parameters.structured_outputs is not None))
        except Exception as error:  # fails this request only
            self._send(running, EngineError(f"vLLM: {error}"))
        else:
            self._open[running.name] = running

    def _abort(self, running: _ActiveRequest) -> None:
        if self._open.pop(running.name, None):
            self._engine.abort_request([running.name])
            self._send(running, CancelledError("the request was cancelled"))

    def _take_output(self, output: RequestOutput) -> None:
        (completion,) = output.outputs
        running = self._open.get(output.request_id)
        if running is None:
            return
        if output.finished:
            del self._open[output.request_id]
        reason = completion.finish_reason
        if reason not in (None, "stop", "length"):
            self._send(running, EngineError(f"vLLM ended the request with '{reason}'"))
            return
        self._send(
            running,
            Chunk(
                text=completion.text,
                num_input_tokens=len(output.prompt_token_ids or ()),
                num_output_tokens=len(completion.token_ids),
                finish_reason=reason,
                logprobs=tuple(_logprobs(one) for one in completion.logprobs or ()),
                cumulative_logprob=completion.cumulative_logprob or 0.0,
            ),
        )

    def _fail(self, error: Exception) -> None:
        """Exit the process: a failed engine does not recover, and a dead stub is restarted."""
        for running in self._end_all():
            self._send(running, EngineError(f"vLLM failed: {error}"))
        self._results.put(None)
        self._sender.join(_DRAIN_SECONDS)
        os._exit(1)

    def _end_all(self) -> list[_ActiveRequest]:
        ended = list(self._open.values())
        self._engine.abort_request(list(self._open))
        self._open.clear()
        return ended

    def _send(self, running: _ActiveRequest, chunk: Chunk | GenerationError) -> None:
        self._results.put((running, chunk))

    # The following method runs in the sender's thread.

    def _call_sinks(self) -> None:
        while result := self._results.get():
            running, chunk = result
            try:
                running.sink(chunk)
            except Exception:  # a failing sink affects its own caller only
                self.cancel(running)


class _ActiveRequest:
    """A ``Generation`` in the engine."""

    _numbers = itertools.count()

    def __init__(self, engine: VllmEngine, sink: Sink) -> None:
        self._engine, self.sink = engine, sink
        # Callers' request ids may be empty or not unique.
        self.name = str(next(self._numbers))

    def cancel(self) -> None:
        self._engine.cancel(self)


def _logprobs(token: dict[int, Logprob]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(key, one.decoded_token or "", one.logprob, one.rank) for key, one in token.items())


def _invalid(error: Exception, structured: bool) -> InvalidRequestError:
    """The first line of vLLM's error; further lines show the place in a grammar."""
    # vLLM names every parameter except this one.
    param = getattr(error, "parameter", None) or ("structured_outputs" if structured else None)
    return InvalidRequestError(str(error).splitlines()[0], param=param)
