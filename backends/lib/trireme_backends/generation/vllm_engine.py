"""vLLM's engine, in this process, behind the contract.

One thread owns the engine: vLLM's ``LLMEngine`` is not made for more. Between two steps it takes up what callers asked
for, so a request joins those that run at the next token, and one that is cancelled leaves at the next token.

Another thread tells the sinks: to send an answer waits for the server, and the next step, which leaves Python to
others while it computes, must not.
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
from trireme_backends.generation.engine import EngineState, Piece, Sink, TokenLogprob
from trireme_backends.generation.errors import (
    CancelledError,
    EngineError,
    GenerationError,
    InvalidRequestError,
    room_for_answer,
)
from trireme_backends.generation.sampling import SamplingParameters
from trireme_backends.generation.vllm_config import VllmConfig

if TYPE_CHECKING:
    from vllm.logprobs import Logprob
    from vllm.outputs import RequestOutput
    from vllm.sampling_params import SamplingParams

# For sending callers what became of their requests, before a process ends whose engine failed.
_TELLING_SECONDS = 2.0
# All of the contract.
_SUPPORTED = {field.name for field in dataclasses.fields(SamplingParameters)} | {
    f"structured_outputs.{kind}" for kind in ("json", "regex", "choice", "grammar")
}


class VllmEngine:
    """An ``Engine`` that loads ``config``; after ``enter_vllm_environment``.

    Raises:
        ModelError: an argument is unknown or wrong, or the model cannot be loaded.
    """

    def __init__(self, config: VllmConfig) -> None:
        # A second to import, and there only in vLLM's environment.
        from vllm.engine.arg_utils import EngineArgs
        from vllm.lora.request import LoRARequest
        from vllm.v1.engine.llm_engine import LLMEngine

        known = {field.name for field in dataclasses.fields(EngineArgs)}
        for name in config.arguments:
            if name not in known:
                raise ModelError(f"model.json: vLLM has no argument '{name}'")
        try:
            self._engine = LLMEngine.from_engine_args(EngineArgs(**{"disable_log_stats": True, **config.arguments}))
            self._adapters = {
                name: LoRARequest(name, number, str(path))
                for number, (name, path) in enumerate(config.adapters.items(), 1)
            }
            # Now, as one that cannot be loaded would end the engine, and every request in it.
            for adapter in self._adapters.values():
                self._engine.add_lora(adapter)
        except Exception as error:
            raise ModelError(f"vLLM cannot load {config.arguments['model']}: {error}") from error
        self._tokenizer = self._engine.renderer.get_tokenizer()
        self._context_tokens: int = self._engine.model_config.max_model_len
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._open: dict[str, _Running] = {}
        self._steps = 0
        self._told: queue.SimpleQueue[tuple[_Running, Piece | GenerationError] | None] = queue.SimpleQueue()
        self._teller = threading.Thread(target=self._tell_sinks, name="vllm-answers", daemon=True)
        self._teller.start()
        self._thread = threading.Thread(target=self._run, name="vllm", daemon=True)
        self._thread.start()

    def submit(self, request: GenerationRequest, sink: Sink) -> _Running:
        """See ``Engine``."""
        sampling = request.sampling
        sampling.require(_SUPPORTED, "vllm")
        if sampling.lora_name is not None and sampling.lora_name not in self._adapters:
            listed = ", ".join(sorted(self._adapters)) or "none"
            raise InvalidRequestError(f"no adapter '{sampling.lora_name}'; there are: {listed}", param="lora_name")
        tokens = self._tokens(request)
        parameters = self._parameters(sampling, room_for_answer(len(tokens), sampling.max_tokens, self._context_tokens))
        running = _Running(self, sink)
        self._tasks.put(lambda: self._add(running, tokens, parameters, sampling.lora_name))
        return running

    def state(self) -> EngineState:
        """See ``Engine``; of vLLM's own scheduler."""
        scheduler = self._engine.engine_core.engine_core.scheduler
        running, waiting = scheduler.get_request_counts()
        return EngineState(running, waiting, scheduler.kv_cache_manager.usage, self._steps)

    def close(self) -> None:
        """See ``Engine``."""
        self._tasks.put(None)
        self._thread.join()
        self._told.put(None)
        self._teller.join()
        self._engine.engine_core.shutdown()

    def cancel(self, running: _Running) -> None:
        """From any thread."""
        self._tasks.put(lambda: self._abort(running))

    def _tokens(self, request: GenerationRequest) -> list[int]:
        if request.messages is None:
            return list(self._tokenizer.encode(request.prompt))
        messages = [dataclasses.asdict(message) for message in request.messages]
        try:
            tokens = self._tokenizer.apply_chat_template(
                messages, tokenize=True, add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # a template raises what it likes
            raise InvalidRequestError(f"the model's chat template refuses them: {error}", param="messages") from None
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

    # In the engine's thread.

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
            self._tell(running, CancelledError("the model is unloaded"))

    def _take_tasks(self) -> bool:
        """Do what was asked for; wait for it while nothing runs. False: the engine is to end."""
        try:
            while True:
                task = self._tasks.get(block=not self._open)
                if task is None:
                    return False
                task()
        except queue.Empty:
            return True

    def _add(self, running: _Running, tokens: list[int], parameters: SamplingParams, adapter: str | None) -> None:
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import TokensPrompt

        prompt = TokensPrompt(prompt_token_ids=tokens)
        lora = self._adapters[adapter] if adapter is not None else None
        try:
            self._engine.add_request(running.name, prompt, parameters, lora_request=lora)
        except VLLMClientError as error:
            self._tell(running, _invalid(error, parameters.structured_outputs is not None))
        except Exception as error:  # of one request; the engine goes on with the others
            self._tell(running, EngineError(f"vLLM: {error}"))
        else:
            self._open[running.name] = running

    def _abort(self, running: _Running) -> None:
        if self._open.pop(running.name, None):
            self._engine.abort_request([running.name])
            self._tell(running, CancelledError("nobody waits for the answer"))

    def _take_output(self, output: RequestOutput) -> None:
        (completion,) = output.outputs
        running = self._open.get(output.request_id)
        if running is None:
            return
        if output.finished:
            del self._open[output.request_id]
        reason = completion.finish_reason
        if reason not in (None, "stop", "length"):
            self._tell(running, EngineError(f"vLLM ended the answer with '{reason}'"))
            return
        self._tell(
            running,
            Piece(
                text=completion.text,
                num_input_tokens=len(output.prompt_token_ids or ()),
                num_output_tokens=len(completion.token_ids),
                finish_reason=reason,
                logprobs=tuple(_logprobs(one) for one in completion.logprobs or ()),
                cumulative_logprob=completion.cumulative_logprob or 0.0,
            ),
        )

    def _fail(self, error: Exception) -> None:
        """End the process: an engine that failed does not work again, and a dead stub is loaded anew."""
        for running in self._end_all():
            self._tell(running, EngineError(f"vLLM failed: {error}"))
        self._told.put(None)
        self._teller.join(_TELLING_SECONDS)
        os._exit(1)

    def _end_all(self) -> list[_Running]:
        ended = list(self._open.values())
        self._engine.abort_request(list(self._open))
        self._open.clear()
        return ended

    def _tell(self, running: _Running, told: Piece | GenerationError) -> None:
        self._told.put((running, told))

    # In the teller's thread.

    def _tell_sinks(self) -> None:
        while told := self._told.get():
            running, piece = told
            try:
                running.sink(piece)
            except Exception:  # a way back that is broken is that caller's alone
                self.cancel(running)


class _Running:
    """A ``Generation`` on its way."""

    _numbers = itertools.count()

    def __init__(self, engine: VllmEngine, sink: Sink) -> None:
        self._engine, self.sink = engine, sink
        # Callers' ids may be the same, or empty.
        self.name = str(next(self._numbers))

    def cancel(self) -> None:
        self._engine.cancel(self)


def _logprobs(token: dict[int, Logprob]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(key, one.decoded_token or "", one.logprob, one.rank) for key, one in token.items())


def _invalid(error: Exception, structured: bool) -> InvalidRequestError:
    """vLLM's own refusal; its first line, as the others show where in a grammar."""
    # It names every parameter but this.
    param = getattr(error, "parameter", None) or ("structured_outputs" if structured else None)
    return InvalidRequestError(str(error).splitlines()[0], param=param)
