"""The engine ``openvino_genai``: one thread steps a pipeline, and every step takes in what has come meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trireme_backends.errors import ModelError
from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import EngineState, Piece, Sink, TokenLogprob
from trireme_backends.generation.errors import (
    CancelledError,
    EngineError,
    GenerationError,
    OverloadedError,
    room_for_answer,
)
from trireme_backends.generation.openvino_pipeline import OpenVinoPipeline, TokenIds, check_sampling
from trireme_backends.generation.openvino_settings import OpenVinoSettings
from trireme_backends.generation.text_stream import StopStringFilter, TokenDecoder


class OpenVinoEngine:
    """See ``engine.Engine``."""

    def __init__(self, weights: Path, settings: OpenVinoSettings) -> None:
        """Load the model.

        Raises:
            ModelError: it cannot be loaded.
        """
        self._weights, self._settings = weights, settings
        self._pipeline = OpenVinoPipeline(weights, settings)
        self._arrivals: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._wake = threading.Condition()
        self._closed_because = ""
        self._numbers = 0
        self._state = EngineState(0, 0, 0.0, 0)
        self._thread = threading.Thread(target=self._run, daemon=True, name="openvino-engine")
        self._thread.start()

    def submit(self, request: GenerationRequest, sink: Sink) -> _Running:
        check_sampling(request.sampling)
        prompt = self._pipeline.prompt_ids(request)
        max_tokens = room_for_answer(prompt.shape[1], request.sampling.max_tokens, self._settings.max_model_len)
        running = _Running(request, sink, prompt, max_tokens, TokenDecoder(self._pipeline.decode))
        most = self._settings.max_num_seqs + self._settings.max_waiting
        with self._wake:
            if self._closed_because:
                raise EngineError(self._closed_because)
            if len(self._arrivals) + len(self._running) >= most:
                raise OverloadedError(f"{most} requests run or wait; try again later")
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
            self._closed_because = reason
            self._wake.notify()

    def _run(self) -> None:
        while self._admit():
            try:
                self._pipeline.step()
            except Exception as error:  # whatever it was, the pipeline's books are wrong from here on
                self._start_anew(error)
                continue
            self._running = [running for running in self._running if not self._advance(running)]
            self._tell_state()
        for running in (*self._running, *self._arrivals):
            running.fail(EngineError(self._closed_because))

    def _admit(self) -> bool:
        """Take in what has come; waits where there is nothing to do. False when the engine closes."""
        with self._wake:
            # What was cancelled leaves the pipeline in the step after.
            while not (self._closed_because or self._arrivals or self._running or self._pipeline.is_busy()):
                self._wake.wait()
            arrived = list(self._arrivals)
            self._arrivals.clear()
            self._running += arrived
        for running in arrived:
            self._numbers += 1
            try:
                running.enter(self._pipeline, self._numbers)
            except GenerationError as error:
                running.fail(error)
                self._running.remove(running)
        return not self._closed_because

    def _advance(self, running: _Running) -> bool:
        """Tell what a request has got; whether it has ended."""
        try:
            return running.advance(self._pipeline)
        except Exception as error:  # of one request
            running.cancel()
            running.fail(EngineError(f"{type(error).__name__}: {error}"))
            return True

    def _start_anew(self, error: Exception) -> None:
        """A pipeline whose step failed never steps again: those in it are lost, a new one serves those who wait."""
        for running in self._running:
            running.fail(EngineError(f"the engine failed and starts anew: {str(error).splitlines()[0]:.200}"))
        self._running = []
        try:
            self._pipeline = OpenVinoPipeline(self._weights, self._settings)
        except ModelError as failure:
            self._close(f"the engine failed and did not start anew: {failure}")

    def _tell_state(self) -> None:
        load = self._pipeline.load()
        running = min(load.scheduled, len(self._running))
        usage = load.cache_usage if self._running else 0.0
        self._state = EngineState(running, len(self._running) - running, usage, (self._state.steps or 0) + 1)


@dataclass(eq=False, slots=True)
class _Running:
    """One request in the engine; the engine's thread alone advances it."""

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

    def enter(self, pipeline: OpenVinoPipeline, number: int) -> None:
        self.handle = pipeline.add(number, self.prompt, self.request.sampling, self.max_tokens)
        if self._cancelled:
            self.handle.cancel()

    def fail(self, error: GenerationError) -> None:
        # A way back that is broken is that caller's alone.
        with contextlib.suppress(Exception):
            self.sink(error)

    def advance(self, pipeline: OpenVinoPipeline) -> bool:
        """Tell what is new; whether this was the last."""
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
            return self._tell(pipeline, tokens, logprobs, reason)
        if ended:
            self.fail(EngineError("the KV cache has no room for this request; ask for fewer tokens"))
        return ended

    def _tell(self, pipeline: OpenVinoPipeline, tokens: list[int], logprobs: list[float], reason: str | None) -> bool:
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
        told: tuple[tuple[TokenLogprob, ...], ...] = ()
        if self.request.sampling.logprobs is not None:
            self._cumulative_logprob += sum(logprobs)
            pairs = zip(tokens, logprobs, strict=True)
            told = tuple((TokenLogprob(token, pipeline.decode([token]), value),) for token, value in pairs)
        self.sink(Piece(text, self.prompt.shape[1], len(tokens), reason, told, self._cumulative_logprob))
        return reason is not None
