"""Generation metrics on Triton's ``/metrics`` endpoint."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Protocol

from trireme_backends.flusher import Flusher
from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import Chunk, EngineState
from trireme_backends.generation.errors import GenerationError

_FIRST_TOKEN_BUCKETS_MS = [10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0]
_INTER_TOKEN_BUCKETS_MS = [2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0]

_REQUESTS = "trireme_generation_requests_total"
_INPUT_TOKENS = "trireme_generation_input_tokens_total"
_OUTPUT_TOKENS = "trireme_generation_output_tokens_total"
_STEPS = "trireme_generation_steps_total"
_COUNTERS = {
    _REQUESTS: "Finished requests by finish reason: stop, length, or the error code",
    _INPUT_TOKENS: "Prompt tokens of finished requests",
    _OUTPUT_TOKENS: "Generated tokens",
    _STEPS: "Forward passes of the engine; prefix caching and accepted speculative tokens save some",
}
_FIRST_TOKEN = "trireme_generation_time_to_first_token_ms"
_INTER_TOKEN = "trireme_generation_inter_token_ms"
_HISTOGRAMS = {
    _FIRST_TOKEN: ("Time from the arrival of a request to its first token in milliseconds", _FIRST_TOKEN_BUCKETS_MS),
    _INTER_TOKEN: ("Time between consecutive tokens of a request in milliseconds", _INTER_TOKEN_BUCKETS_MS),
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
    """Receives the events of requests."""

    def accepted(self, request: GenerationRequest) -> None: ...

    def rejected(self, error: GenerationError) -> None: ...

    def generated(self, request: GenerationRequest, chunk: Chunk) -> None: ...

    def failed(self, request: GenerationRequest, error: GenerationError) -> None: ...

    def state(self, state: EngineState) -> None: ...


class TritonMetrics:
    """Updates Triton's metrics from the events; ``pb_utils`` is ``triton_python_backend_utils``."""

    def __init__(self, pb_utils: Any, model: str, version: str) -> None:
        family = pb_utils.MetricFamily
        self._labels = {"model": model, "version": version}
        self._counters = {
            name: family(name=name, description=text, kind=family.COUNTER) for name, text in _COUNTERS.items()
        }
        self._gauge_families = {
            name: family(name=name, description=text, kind=family.GAUGE) for name, text in _GAUGES.items()
        }
        self._gauges = {name: gauge.Metric(labels=self._labels) for name, gauge in self._gauge_families.items()}
        self._histogram_families = {
            name: family(name=name, description=text, kind=family.HISTOGRAM) for name, (text, _) in _HISTOGRAMS.items()
        }
        self._histograms = {
            name: histogram.Metric(labels=self._labels, buckets=_HISTOGRAMS[name][1])
            for name, histogram in self._histogram_families.items()
        }
        self._metrics: dict[tuple[str, str], Any] = {}
        # By id() of the request. The events of one request are never concurrent.
        self._arrivals: dict[int, float] = {}
        self._last_tokens: dict[int, float] = {}
        # Append and popleft of a deque are thread-safe.
        self._counts: deque[tuple[str, str, int]] = deque()
        self._observations_ms: deque[tuple[str, float, int]] = deque()
        self._state = EngineState(0, 0, 0.0)
        self._sent_state: EngineState | None = None
        self._sent_steps = 0
        self._flusher = Flusher(self._flush, "generation-metrics")

    def close(self) -> None:
        """Send pending updates, and stop."""
        self._flusher.close()

    def accepted(self, request: GenerationRequest) -> None:
        self._arrivals[id(request)] = time.monotonic()

    def rejected(self, error: GenerationError) -> None:
        self._counts.append((_REQUESTS, error.code, 1))

    def failed(self, request: GenerationRequest, error: GenerationError) -> None:
        self.rejected(error)
        self._forget(request)

    def generated(self, request: GenerationRequest, chunk: Chunk) -> None:
        if chunk.num_output_tokens:
            now = time.monotonic()
            before = self._last_tokens.get(id(request))
            if before is None:
                arrived = self._arrivals.get(id(request), now)
                self._observations_ms.append((_FIRST_TOKEN, (now - arrived) * 1000, 1))
            else:
                # Tokens that speculation generates together share the time.
                count = chunk.num_output_tokens
                self._observations_ms.append((_INTER_TOKEN, (now - before) * 1000 / count, count))
            self._last_tokens[id(request)] = now
            self._counts.append((_OUTPUT_TOKENS, "", chunk.num_output_tokens))
        if chunk.finish_reason is not None:
            self._counts.append((_REQUESTS, chunk.finish_reason, 1))
            self._counts.append((_INPUT_TOKENS, "", chunk.num_input_tokens))
            self._forget(request)

    def state(self, state: EngineState) -> None:
        self._state = state

    def _forget(self, request: GenerationRequest) -> None:
        self._arrivals.pop(id(request), None)
        self._last_tokens.pop(id(request), None)

    def _flush(self) -> None:
        counts: Counter[tuple[str, str]] = Counter()
        while self._counts:
            name, reason, amount = self._counts.popleft()
            counts[name, reason] += amount
        for (name, reason), amount in counts.items():
            self._counter(name, reason).increment(amount)
        while self._observations_ms:
            name, observed_ms, times = self._observations_ms.popleft()
            for _ in range(times):
                self._histograms[name].observe(observed_ms)
        if self._state != self._sent_state:
            self._send_state(self._state)
            self._sent_state = self._state

    def _send_state(self, state: EngineState) -> None:
        self._gauges[_RUNNING].set(state.running)
        self._gauges[_WAITING].set(state.waiting)
        if state.kv_cache_usage is not None:
            self._gauges[_CACHE].set(state.kv_cache_usage)
        if state.steps is not None and state.steps > self._sent_steps:
            self._counter(_STEPS, "").increment(state.steps - self._sent_steps)
            self._sent_steps = state.steps

    def _counter(self, name: str, reason: str) -> Any:
        if (name, reason) not in self._metrics:
            labels: Mapping[str, str] = {**self._labels, **({"finish_reason": reason} if reason else {})}
            self._metrics[name, reason] = self._counters[name].Metric(labels=dict(labels))
        return self._metrics[name, reason]
