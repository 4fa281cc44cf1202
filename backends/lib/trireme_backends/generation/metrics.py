"""The metrics of generation."""

from __future__ import annotations

import time
from collections import deque
from typing import Any, Protocol

from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import Chunk, EngineState
from trireme_backends.generation.errors import GenerationError
from trireme_backends.metrics import MetricWriter, drain

_FIRST_TOKEN_BUCKETS_SECONDS = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0]
_INTER_TOKEN_BUCKETS_SECONDS = [0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0]

_REQUESTS = "trireme_generation_requests_total"
_INPUT_TOKENS = "trireme_generation_input_tokens_total"
_OUTPUT_TOKENS = "trireme_generation_output_tokens_total"
_STEPS = "trireme_generation_steps_total"
_COUNTERS = {
    _REQUESTS: "Requests by how they ended: stop, length, or the first word of the error",
    _INPUT_TOKENS: "Tokens of the prompts of requests that ended",
    _OUTPUT_TOKENS: "Tokens generated",
    _STEPS: "Steps that the engine computed: a cached prefix or accepted speculation takes fewer",
}
_FIRST_TOKEN = "trireme_generation_time_to_first_token_seconds"
_INTER_TOKEN = "trireme_generation_inter_token_seconds"
_HISTOGRAMS = {
    _FIRST_TOKEN: ("Time from the arrival of a request to its first token in seconds", _FIRST_TOKEN_BUCKETS_SECONDS),
    _INTER_TOKEN: ("Time between consecutive tokens of a request in seconds", _INTER_TOKEN_BUCKETS_SECONDS),
}
_RUNNING = "trireme_generation_running"
_WAITING = "trireme_generation_waiting"
_CACHE = "trireme_generation_kv_cache_usage_ratio"
_GAUGES = {
    _RUNNING: "Requests in the engine's batch",
    _WAITING: "Requests queued in the engine",
    _CACHE: "Fraction of the KV cache in use, from 0 to 1",
}


class Observer(Protocol):
    """Is notified of requests and of the engine's state, from any thread."""

    def accepted(self, request: GenerationRequest) -> None: ...
    def rejected(self, error: GenerationError) -> None: ...
    def generated(self, request: GenerationRequest, chunk: Chunk) -> None: ...
    def failed(self, request: GenerationRequest, error: GenerationError) -> None: ...
    def state(self, state: EngineState) -> None: ...


class GenerationMetrics:
    """An ``Observer`` that writes metrics; ``pb_utils`` is ``triton_python_backend_utils``."""

    def __init__(self, pb_utils: Any, model: str, version: str) -> None:
        # When a request arrived, and when its last token came. Used by one thread at a time for each request.
        self._arrivals: dict[int, float] = {}
        self._last_tokens: dict[int, float] = {}
        self._counts: deque[tuple[str, int, dict[str, str]]] = deque()
        self._latencies: deque[tuple[str, float, int]] = deque()
        self._state = self._sent_state = EngineState(0, 0, 0.0)
        self._sent_steps = 0
        labels = {"model": model, "version": version}
        self._writer = MetricWriter(pb_utils, labels, counters=_COUNTERS, gauges=_GAUGES, histograms=_HISTOGRAMS)
        for name in _HISTOGRAMS:
            self._writer.metric(name)
        self._write_state()
        self._writer.start(self._collect)

    def close(self) -> None:
        """Send the last events, and stop."""
        self._writer.close()

    def accepted(self, request: GenerationRequest) -> None:
        self._arrivals[id(request)] = time.monotonic()

    def rejected(self, error: GenerationError) -> None:
        self._count_end(error.kind)

    def failed(self, request: GenerationRequest, error: GenerationError) -> None:
        self._count_end(error.kind)
        self._forget(request)

    def generated(self, request: GenerationRequest, chunk: Chunk) -> None:
        if chunk.num_output_tokens:
            now = time.monotonic()
            before = self._last_tokens.get(id(request))
            if before is None:
                arrived = self._arrivals.get(id(request), now)
                self._latencies.append((_FIRST_TOKEN, now - arrived, 1))
            else:
                # Tokens that speculation brings at once share the time.
                count = chunk.num_output_tokens
                self._latencies.append((_INTER_TOKEN, (now - before) / count, count))
            self._last_tokens[id(request)] = now
            self._counts.append((_OUTPUT_TOKENS, chunk.num_output_tokens, {}))
        if chunk.finish_reason is not None:
            self._count_end(chunk.finish_reason)
            self._counts.append((_INPUT_TOKENS, chunk.num_input_tokens, {}))
            self._forget(request)

    def state(self, state: EngineState) -> None:
        self._state = state

    def _count_end(self, reason: str) -> None:
        self._counts.append((_REQUESTS, 1, {"finish_reason": reason}))

    def _forget(self, request: GenerationRequest) -> None:
        self._arrivals.pop(id(request), None)
        self._last_tokens.pop(id(request), None)

    def _collect(self) -> None:
        for name, amount, labels in drain(self._counts):
            self._writer.count(name, amount, **labels)
        for name, latency_s, times in drain(self._latencies):
            for _ in range(times):
                self._writer.observe(name, latency_s)
        if self._state != self._sent_state:
            self._sent_state = self._state
            self._write_state()

    def _write_state(self) -> None:
        state = self._sent_state
        self._writer.set(_RUNNING, state.running)
        self._writer.set(_WAITING, state.waiting)
        if state.kv_cache_usage is not None:
            self._writer.set(_CACHE, state.kv_cache_usage)
        if state.steps is not None and state.steps > self._sent_steps:
            self._writer.count(_STEPS, state.steps - self._sent_steps)
            self._sent_steps = state.steps
