"""The metrics of generation on Triton's own ``/metrics``."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Protocol

from trireme_backends.flusher import Flusher
from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import EngineState, Piece
from trireme_backends.generation.errors import GenerationError

_FIRST_TOKEN_BUCKETS_MS = [10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0, 30000.0]
_INTER_TOKEN_BUCKETS_MS = [2.0, 5.0, 10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 500.0, 1000.0]

_REQUESTS = "trireme_generation_requests_total"
_INPUT_TOKENS = "trireme_generation_input_tokens_total"
_OUTPUT_TOKENS = "trireme_generation_output_tokens_total"
_STEPS = "trireme_generation_steps_total"
_COUNTERS = {
    _REQUESTS: "Requests by how they ended: stop, length, or the first word of the error",
    _INPUT_TOKENS: "Tokens of the prompts of requests that ended",
    _OUTPUT_TOKENS: "Tokens generated",
    _STEPS: "Times that the engine computed: a cached prefix or a right guess of tokens takes fewer",
}
_FIRST_TOKEN = "trireme_generation_time_to_first_token_ms"
_INTER_TOKEN = "trireme_generation_inter_token_ms"
_HISTOGRAMS = {
    _FIRST_TOKEN: ("Time from a request's arrival to its first token, milliseconds", _FIRST_TOKEN_BUCKETS_MS),
    _INTER_TOKEN: ("Time from one token of an answer to the next, milliseconds", _INTER_TOKEN_BUCKETS_MS),
}
_RUNNING = "trireme_generation_running"
_WAITING = "trireme_generation_waiting"
_CACHE = "trireme_generation_kv_cache_usage_ratio"
_GAUGES = {
    _RUNNING: "Requests that the engine generates for",
    _WAITING: "Requests that wait for a place in the engine",
    _CACHE: "Share of the KV cache in use",
}


class Observer(Protocol):
    """Is told what becomes of requests."""

    def accepted(self, request: GenerationRequest) -> None: ...

    def refused(self, error: GenerationError) -> None: ...

    def generated(self, request: GenerationRequest, piece: Piece) -> None: ...

    def failed(self, request: GenerationRequest, error: GenerationError) -> None: ...

    def state(self, state: EngineState) -> None: ...


class TritonMetrics:
    """Takes what happens to Triton's metrics; ``pb_utils`` is the module of that name."""

    def __init__(self, pb_utils: Any, model: str, version: str) -> None:
        family = pb_utils.MetricFamily
        self._labels = {"model": model, "version": version}
        self._counters = {
            name: family(name=name, description=text, kind=family.COUNTER) for name, text in _COUNTERS.items()
        }
        self._gauge_families = {
            name: family(name=name, description=text, kind=family.GAUGE) for name, text in _GAUGES.items()
        }
        self._gauges = {name: found.Metric(labels=self._labels) for name, found in self._gauge_families.items()}
        self._histogram_families = {
            name: family(name=name, description=text, kind=family.HISTOGRAM) for name, (text, _) in _HISTOGRAMS.items()
        }
        self._histograms = {
            name: found.Metric(labels=self._labels, buckets=_HISTOGRAMS[name][1])
            for name, found in self._histogram_families.items()
        }
        self._metrics: dict[tuple[str, str], Any] = {}
        # When a request came, and when its last token did. Touched by its own thread only, one after the other.
        self._arrivals: dict[int, float] = {}
        self._last_tokens: dict[int, float] = {}
        # Appending to and taking from a deque needs no lock.
        self._counts: deque[tuple[str, str, int]] = deque()
        self._seen_ms: deque[tuple[str, float, int]] = deque()
        self._state = EngineState(0, 0, 0.0)
        self._state_told: EngineState | None = None
        self._steps_told = 0
        self._flusher = Flusher(self._flush, "generation-metrics")

    def close(self) -> None:
        """Send what was noted, and stop."""
        self._flusher.close()

    def accepted(self, request: GenerationRequest) -> None:
        self._arrivals[id(request)] = time.monotonic()

    def refused(self, error: GenerationError) -> None:
        self._counts.append((_REQUESTS, error.word, 1))

    def failed(self, request: GenerationRequest, error: GenerationError) -> None:
        self.refused(error)
        self._forget(request)

    def generated(self, request: GenerationRequest, piece: Piece) -> None:
        if piece.num_output_tokens:
            now = time.monotonic()
            before = self._last_tokens.get(id(request))
            if before is None:
                arrived = self._arrivals.get(id(request), now)
                self._seen_ms.append((_FIRST_TOKEN, (now - arrived) * 1000, 1))
            else:
                # Tokens that speculation brings at once share the time.
                count = piece.num_output_tokens
                self._seen_ms.append((_INTER_TOKEN, (now - before) * 1000 / count, count))
            self._last_tokens[id(request)] = now
            self._counts.append((_OUTPUT_TOKENS, "", piece.num_output_tokens))
        if piece.finish_reason is not None:
            self._counts.append((_REQUESTS, piece.finish_reason, 1))
            self._counts.append((_INPUT_TOKENS, "", piece.num_input_tokens))
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
        while self._seen_ms:
            name, seen_ms, times = self._seen_ms.popleft()
            for _ in range(times):
                self._histograms[name].observe(seen_ms)
        if self._state != self._state_told:
            self._send_state(self._state)
            self._state_told = self._state

    def _send_state(self, state: EngineState) -> None:
        self._gauges[_RUNNING].set(state.running)
        self._gauges[_WAITING].set(state.waiting)
        if state.kv_cache_usage is not None:
            self._gauges[_CACHE].set(state.kv_cache_usage)
        if state.steps is not None and state.steps > self._steps_told:
            self._counter(_STEPS, "").increment(state.steps - self._steps_told)
            self._steps_told = state.steps

    def _counter(self, name: str, reason: str) -> Any:
        if (name, reason) not in self._metrics:
            labels: Mapping[str, str] = {**self._labels, **({"finish_reason": reason} if reason else {})}
            self._metrics[name, reason] = self._counters[name].Metric(labels=dict(labels))
        return self._metrics[name, reason]
