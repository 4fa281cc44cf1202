"""The router's metrics on Triton's own ``/metrics``, and its lines in Triton's log."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Any

import triton_python_backend_utils as pb_utils
from trireme_backends.errors import BackendError, RequestError
from trireme_backends.flusher import Flusher
from trireme_backends.routing.breaker import BreakerState
from trireme_backends.routing.decision import Reason
from trireme_backends.routing.errors import UnavailableError
from trireme_backends.routing.route import Route
from trireme_backends.routing.work import RowRoute

_LATENCY_BUCKETS_MS = [2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]
_BREAKER_VALUES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

_REQUESTS = "trireme_router_requests_total"
_CALLS = "trireme_router_calls_total"
_CALLED_ROWS = "trireme_router_called_rows_total"
_COST = "trireme_router_cost_total"
_PREDICTIONS = "trireme_router_predictions_total"
_KEPT = "trireme_router_predictions_kept_total"
_PREDICTED_MS = "trireme_router_predicted_ms_total"
_SEEN_MS = "trireme_router_seen_ms_total"
_TRAFFIC_ERRORS = "trireme_router_traffic_errors_total"
_COUNTERS = {
    _REQUESTS: "Requests by the variant that answered, and why; refused ones have no variant",
    _CALLS: "Calls of variants by outcome; one call carries the rows of several requests",
    _CALLED_ROWS: "Rows in the calls of variants",
    _COST: "Price of the rows in the calls of variants, by the route's cost_per_1000",
    _PREDICTIONS: "Answers of a variant that were predicted",
    _KEPT: "Answers within their predicted p95: 95 % where it is right",
    _PREDICTED_MS: "Sum of the predicted p95, milliseconds",
    _SEEN_MS: "Sum of the latencies that were predicted, as they were seen, milliseconds",
    _TRAFFIC_ERRORS: "Times that traffic.json was found wrong; the last good one holds",
}

Labels = tuple[tuple[str, str], ...]


class TritonMetrics:
    """Takes what the dispatcher tells (``dispatcher.Observer``) to Triton's metrics."""

    def __init__(self, route: Route) -> None:
        self._task = route.task
        costs = {variant.name: variant.cost_per_1000 / 1000 for variant in route.variants}
        self._row_costs = {**costs, **{variant.canary: costs[variant.name] for variant in route.variants}}
        family = pb_utils.MetricFamily
        self._families = {
            name: family(name=name, description=text, kind=family.COUNTER) for name, text in _COUNTERS.items()
        }
        self._latency = family(
            name="trireme_router_latency_ms",
            description="Time from a request's arrival at the router to its answer, milliseconds",
            kind=family.HISTOGRAM,
        )
        self._waiting = family(
            name="trireme_router_waiting_rows",
            description="Rows that wait in the router for a call of the variant",
            kind=family.GAUGE,
        )
        self._breaker = family(
            name="trireme_router_breaker_state",
            description="Circuit breaker of a variant: 0 closed, 1 half open, 2 open",
            kind=family.GAUGE,
        )
        self._metrics: dict[tuple[str, Labels], Any] = {}
        # Appending to and taking from a deque needs no lock.
        self._replies: deque[tuple[RowRoute, float, str]] = deque()
        self._refusals: deque[tuple[str, str, str]] = deque()
        self._calls: deque[tuple[str, str, int]] = deque()
        self._predictions: deque[tuple[str, float, float]] = deque()
        self._states: deque[tuple[str, BreakerState]] = deque((name, BreakerState.CLOSED) for name in costs)
        self._traffic_errors: deque[str] = deque()
        # Asked before each sending; who has the queues sets it.
        self.waiting_rows: Callable[[], Mapping[str, int]] = dict
        self._flusher = Flusher(self._flush, "router-metrics")

    def close(self) -> None:
        """Send what was noted, and stop."""
        self._flusher.close()

    def replied(self, route: RowRoute, *, seen_ms: float, request_id: str) -> None:
        self._replies.append((route, seen_ms, request_id))

    def refused(self, error: BackendError, *, request_id: str) -> None:
        kinds = ((RequestError, "invalid"), (UnavailableError, "unavailable"), (BackendError, "failed"))
        outcome = next(name for kind, name in kinds if isinstance(error, kind))
        self._refusals.append((outcome, str(error), request_id))

    def called(self, variant: str, outcome: str, *, rows: int) -> None:
        self._calls.append((variant, outcome, rows))

    def predicted(self, variant: str, *, p95_ms: float, seen_ms: float) -> None:
        self._predictions.append((variant, p95_ms, seen_ms))

    def breaker(self, variant: str, state: BreakerState) -> None:
        pb_utils.Logger.log_warn(f"router {self._task}: breaker of {variant} is {state.value}")
        self._states.append((variant, state))

    def traffic_error(self, message: str) -> None:
        pb_utils.Logger.log_error(f"router {self._task}: {message}; the last good traffic holds")
        self._traffic_errors.append(message)

    def _flush(self) -> None:
        counts: Counter[tuple[str, Labels]] = Counter()

        def count(name: str, amount: float, **labels: str) -> None:
            counts[name, tuple(labels.items())] += amount  # type: ignore[assignment]

        for route, seen_ms, request_id in _taken(self._replies):
            reason = route.reason.value
            count(_REQUESTS, 1, variant=route.variant, version=route.version, outcome="answered", reason=reason)
            latency = self._metric(self._latency, "latency", (("variant", route.variant),), buckets=_LATENCY_BUCKETS_MS)
            latency.observe(seen_ms)
            if route.reason is Reason.FALLBACK:
                self._log(route.reason_json, request_id, variant=route.variant, version=route.version)
        for outcome, message, request_id in _taken(self._refusals):
            count(_REQUESTS, 1, variant="", version="", outcome=outcome, reason="")
            # What a caller did wrong is told to the caller, and would fill the log.
            if outcome != "invalid":
                self._log(message, request_id)
        for variant, outcome, rows in _taken(self._calls):
            count(_CALLS, 1, variant=variant, outcome=outcome)
            count(_CALLED_ROWS, rows, variant=variant)
            count(_COST, rows * self._row_costs[variant], variant=variant)
        for variant, p95_ms, seen_ms in _taken(self._predictions):
            count(_PREDICTIONS, 1, variant=variant)
            count(_KEPT, seen_ms <= p95_ms, variant=variant)
            count(_PREDICTED_MS, p95_ms, variant=variant)
            count(_SEEN_MS, seen_ms, variant=variant)
        # Present from the start, so that an alert on its increase can work.
        count(_TRAFFIC_ERRORS, len(_taken(self._traffic_errors)))
        for (name, labels), amount in counts.items():
            self._metric(self._families[name], name, labels).increment(amount)
        for variant, rows in self.waiting_rows().items():
            self._metric(self._waiting, "waiting", (("variant", variant),)).set(rows)
        for variant, state in _taken(self._states):
            self._metric(self._breaker, "breaker", (("variant", variant),)).set(_BREAKER_VALUES[state])

    def _log(self, message: str, request_id: str, **more: str) -> None:
        line = {"message": message, "request_id": request_id, "model": self._task, **more}
        pb_utils.Logger.log_warn(json.dumps({name: value for name, value in line.items() if value}))

    def _metric(self, family: Any, name: str, labels: Labels, **more: Any) -> Any:
        key = (name, labels)
        if key not in self._metrics:
            self._metrics[key] = family.Metric(labels={"task": self._task, **dict(labels)}, **more)
        return self._metrics[key]


def _taken(notes: deque[Any]) -> list[Any]:
    """All notes there are now; those made meanwhile wait for the next time."""
    return [notes.popleft() for _ in range(len(notes))]
