"""The engine ``openvino_genai``: one thread steps a pipeline; new requests join before each step."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trireme_backends.errors import ModelError
from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import Chunk, EngineState, Sink, TokenLogprob
from trireme_backends.generation.errors import (
    CancelledError,
    EngineError,
    GenerationError,
    OverloadedError,
    output_token_limit,
)
from trireme_backends.generation.openvino_pipeline import OpenVinoPipeline, TokenIds, check_sampling
from trireme_backends.generation.openvino_settings import OpenVinoSettings
from trireme_backends.generation.text_stream import StopStringFilter, TokenDecoder


class OpenVinoEngine:
    """See ``engine.Engine``."""

    def __init__(self, weights: Path, settings: OpenVinoSettings) -> None:
        """Load the model.

        Raises:
            ModelError: the model cannot be loaded.
        """
        self._weights, self._settings = weights, settings
        self._pipeline = OpenVinoPipeline(weights, settings)
        self._arrivals: deque[_ActiveRequest] = deque()
        self._running: list[_ActiveRequest] = []
        self._wake = threading.Condition()
        self._close_reason = ""
        self._last_number = 0
        self._state = EngineState(0, 0, 0.0, 0)
        self._thread = threading.Thread(target=self._run, daemon=True, name="openvino-engine")
        self._thread.start()

    def submit(self, request: GenerationRequest, sink: Sink) -> _ActiveRequest:
        check_sampling(request.sampling)
        prompt = self._pipeline.prompt_ids(request)
        max_tokens = output_token_limit(prompt.shape[1], request.sampling.max_tokens, self._settings.max_model_len)
        running = _ActiveRequest(request, sink, prompt, max_tokens, TokenDecoder(self._pipeline.decode))
        limit = self._settings.max_num_seqs + self._settings.max_waiting
        with self._wake:
            if self._close_reason:
                raise EngineError(self._close_reason)
            if len(self._arrivals) + len(self._running) >= limit:
                raise OverloadedError(f"{limit} requests are running or queued; retry later")
            self._arrivals.append(running)
            self._wake.notify()
        return running

    def state(self) -> EngineState:
        return self._state

    def close(self) -> None:
        self._close("the model was unloaded")
        self._thread.join()

    def _close(self, reason: str) -> None:
        with self._wake:
            self._close_reason = reason
            self._wake.notify()

    def _run(self) -> None:
        while self._admit():
            try:
                self._pipeline.step()
            except Exception as error:  # after any error the pipeline's state is inconsistent
                self._restart(error)
                continue
            self._running = [running for running in self._running if not self._advance(running)]
            self._update_state()
        for running in (*self._running, *self._arrivals):
            running.fail(EngineError(self._close_reason))

    def _admit(self) -> bool:
        """Add new requests to the pipeline; blocks while there is nothing to do. False when the engine closes."""
        with self._wake:
            # A cancelled request leaves the pipeline in the next step.
            while not (self._close_reason or self._arrivals or self._running or self._pipeline.is_busy()):
                self._wake.wait()
            arrived = list(self._arrivals)
            self._arrivals.clear()
            self._running += arrived
        for running in arrived:
            self._last_number += 1
            try:
                running.start(self._pipeline, self._last_number)
            except GenerationError as error:
                running.fail(error)
                self._running.remove(running)
        return not self._close_reason

    def _advance(self, running: _ActiveRequest) -> bool:
        """Send the new output of a request; returns whether it has ended."""
        try:
            return running.advance(self._pipeline)
        except Exception as error:  # fails this request only
            running.cancel()
            running.fail(EngineError(f"{type(error).__name__}: {error}"))
            return True

    def _restart(self, error: Exception) -> None:
        """Replace a pipeline whose step failed: its requests fail, a new pipeline serves the queued ones."""
        for running in self._running:
            running.fail(EngineError(f"the engine failed and restarts: {str(error).splitlines()[0]:.200}"))
        self._running = []
        try:
            self._pipeline = OpenVinoPipeline(self._weights, self._settings)
        except ModelError as failure:
            self._close(f"the engine failed and did not restart: {failure}")

    def _update_state(self) -> None:
        load = self._pipeline.load()
        running = min(load.scheduled, len(self._running))
        usage = load.cache_usage if self._running else 0.0
        self._state = EngineState(running, len(self._running) - running, usage, (self._state.steps or 0) + 1)


@dataclass(eq=False, slots=True)
class _ActiveRequest:
    """One request in the engine; only the engine's thread advances it."""

    request: GenerationRequest
    sink: Sink
    prompt: TokenIds
    max_tokens: int
    decoder: TokenDecoder
    handle: Any = None
    stops: StopStringFilter = field(init=False)
    _cancelled: bool = False
    _tokens: int = 0
    _cumulative_logprob: float = 0.0

    def __post_init__(self) -> None:
        sampling = self.request.sampling
        self.stops = StopStringFilter(sampling.stop, include=sampling.include_stop_str_in_output)

    def cancel(self) -> None:
        self._cancelled = True
        if self.handle is not None:
            self.handle.cancel()

    def start(self, pipeline: OpenVinoPipeline, number: int) -> None:
        self.handle = pipeline.add(number, self.prompt, self.request.sampling, self.max_tokens)
        if self._cancelled:
            self.handle.cancel()

    def fail(self, error: GenerationError) -> None:
        # A failing sink affects its own caller only.
        with contextlib.suppress(Exception):
            self.sink(error)

    def advance(self, pipeline: OpenVinoPipeline) -> bool:
        """Send new output; returns whether the request has ended."""
        if self._cancelled:
            self.fail(CancelledError("the request was cancelled"))
            return True
        tokens: list[int] = []
        logprobs: list[float] = []
        reason: str | None = None
        ended = pipeline.has_finished(self.handle)
        while self.handle.can_read():
            for output in self.handle.read().values():
                tokens += output.generated_ids
                logprobs += output.generated_log_probs
                reason = pipeline.finish_reason(output.finish_reason) or reason
        if tokens or reason:
            return self._send(pipeline, tokens, logprobs, reason)
        if ended:
            self.fail(EngineError("the KV cache is too small for this request; lower max_tokens"))
        return ended

    def _send(self, pipeline: OpenVinoPipeline, tokens: list[int], logprobs: list[float], reason: str | None) -> bool:
        self._tokens += len(tokens)
        text = self.decoder.push(tokens)
        if reason:
            text += self.decoder.rest()
        if self._tokens > self.request.sampling.min_tokens:
            text = self.stops.push(text)
        if self.stops.stopped:
            reason = "stop"
            self.handle.cancel()
        elif reason:
            text += self.stops.rest()
        token_logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
        if self.request.sampling.logprobs is not None:
            self._cumulative_logprob += sum(logprobs)
            pairs = zip(tokens, logprobs, strict=True)
            token_logprobs = tuple((TokenLogprob(token, pipeline.decode([token]), value),) for token, value in pairs)
        self.sink(Chunk(text, self.prompt.shape[1], len(tokens), reason, token_logprobs, self._cumulative_logprob))
        return reason is not None
