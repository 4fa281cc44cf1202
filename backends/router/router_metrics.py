"""The router's metrics on Triton's own ``/metrics``.

An update is a message to the server, 20 microseconds: too much for every request. So updates are gathered and sent
every half second by a thread of their own.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Any

import triton_python_backend_utils as pb_utils
from trireme_backends.errors import BackendError, RequestError
from trireme_backends.routing.breaker import BreakerState
from trireme_backends.routing.work import RowRoute

_FLUSH_SECONDS = 0.5
_LATENCY_BUCKETS_MS = [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]
_BREAKER_VALUES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

_COUNTERS = {
    "trireme_router_requests_total": "Requests by the variant that answered, and why; refused ones have no variant",
    "trireme_router_calls_total": "Calls of variants by outcome; one call carries the rows of several requests",
    "trireme_router_called_rows_total": "Rows in the calls of variants",
    "trireme_router_predictions_total": "Answers of a variant that were predicted",
    "trireme_router_predictions_kept_total": "Answers within their predicted p95: 95 % where it is right",
    "trireme_router_predicted_ms_total": "Sum of the predicted p95, milliseconds",
    "trireme_router_seen_ms_total": "Sum of the latencies that were predicted, as they were seen, milliseconds",
    "trireme_router_traffic_errors_total": "Times that traffic.json was found wrong; the last good one holds",
}

Labels = tuple[tuple[str, str], ...]


class TritonMetrics:
    """Takes what the dispatcher tells (``dispatcher.Observer``) to Triton's metrics."""

    def __init__(self, task: str) -> None:
        self._task = task
        family = pb_utils.MetricFamily
        self._counters = {
            name: family(name=name, description=text, kind=family.COUNTER) for name, text in _COUNTERS.items()
        }
        self._latency = family(
            name="trireme_router_latency_ms",
            description="Time from a request's arrival at the router to its answer, milliseconds",
            kind=family.HISTOGRAM,
        )
        self._breaker = family(
            name="trireme_router_breaker_state",
            description="Circuit breaker of a variant: 0 closed, 1 half open, 2 open",
            kind=family.GAUGE,
        )
        self._metrics: dict[tuple[str, Labels], Any] = {}
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, Labels]] = Counter()
        self._latencies: list[tuple[str, float]] = []
        self._states: dict[str, BreakerState] = {}
        self._count("trireme_router_traffic_errors_total", 0)
        self._closed = threading.Event()
        self._flusher = threading.Thread(target=self._run, daemon=True, name="router-metrics")
        self._flusher.start()

    def close(self) -> None:
        """Send what was gathered, and stop."""
        self._closed.set()
        self._flusher.join(timeout=2.0)

    def replied(self, route: RowRoute, *, seen_ms: float) -> None:
        self._count(
            "trireme_router_requests_total",
            1,
            variant=route.variant,
            version=route.version,
            outcome="answered",
            reason=route.reason.value,
        )
        with self._lock:
            self._latencies.append((route.variant, seen_ms))

    def refused(self, error: BackendError) -> None:
        outcome = "invalid" if isinstance(error, RequestError) else "unavailable"
        self._count("trireme_router_requests_total", 1, variant="", version="", outcome=outcome, reason="")

    def called(self, variant: str, outcome: str, *, rows: int) -> None:
        self._count("trireme_router_calls_total", 1, variant=variant, outcome=outcome)
        self._count("trireme_router_called_rows_total", rows, variant=variant)

    def predicted(self, variant: str, *, p95_ms: float, seen_ms: float) -> None:
        self._count("trireme_router_predictions_total", 1, variant=variant)
        self._count("trireme_router_predictions_kept_total", seen_ms <= p95_ms, variant=variant)
        self._count("trireme_router_predicted_ms_total", p95_ms, variant=variant)
        self._count("trireme_router_seen_ms_total", seen_ms, variant=variant)

    def breaker(self, variant: str, state: BreakerState) -> None:
        pb_utils.Logger.log_warn(f"router {self._task}: breaker of {variant} is {state.value}")
        with self._lock:
            self._states[variant] = state

    def traffic_error(self, message: str) -> None:
        pb_utils.Logger.log_error(f"router {self._task}: {message}; the last good traffic holds")
        self._count("trireme_router_traffic_errors_total", 1)

    def _count(self, name: str, amount: float, **labels: str) -> None:
        key = (name, tuple(labels.items()))
        with self._lock:
            self._counts[key] += amount  # type: ignore[assignment]

    def _run(self) -> None:
        while not self._closed.wait(_FLUSH_SECONDS):
            self._flush()
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            counts, self._counts = self._counts, Counter()
            latencies, self._latencies = self._latencies, []
            states, self._states = self._states, {}
        for (name, labels), amount in counts.items():
            self._metric(self._counters[name], name, labels).increment(amount)
        for variant, seen_ms in latencies:
            labels = (("variant", variant),)
            self._metric(self._latency, "latency", labels, buckets=_LATENCY_BUCKETS_MS).observe(seen_ms)
        for variant, state in states.items():
            self._metric(self._breaker, "breaker", (("variant", variant),)).set(_BREAKER_VALUES[state])

    def _metric(self, family: Any, name: str, labels: Labels, **more: Any) -> Any:
        key = (name, labels)
        if key not in self._metrics:
            self._metrics[key] = family.Metric(labels={"task": self._task, **dict(labels)}, **more)
        return self._metrics[key]
