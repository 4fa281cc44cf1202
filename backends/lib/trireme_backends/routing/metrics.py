"""The router's metrics, and its messages in Triton's log."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from trireme_backends.errors import BackendError
from trireme_backends.metrics import MetricWriter, drain
from trireme_backends.routing.breaker import BreakerState
from trireme_backends.routing.decision import Reason
from trireme_backends.routing.route import Route
from trireme_backends.routing.selection import RouteOutputs

_BREAKER_VALUES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}

_REQUESTS = "trireme_router_requests_total"
_CALLS = "trireme_router_calls_total"
_CALLED_ROWS = "trireme_router_called_rows_total"
_COST = "trireme_router_cost_total"
_PREDICTIONS = "trireme_router_predictions_total"
_KEPT = "trireme_router_predictions_kept_total"
_PREDICTED = "trireme_router_predicted_seconds_total"
_OBSERVED = "trireme_router_observed_seconds_total"
_TRAFFIC_ERRORS = "trireme_router_traffic_errors_total"
_COUNTERS = {
    _REQUESTS: "Requests by serving variant and reason; rejected requests have no variant",
    _CALLS: "Calls of variants by outcome; one call may carry the rows of several requests",
    _CALLED_ROWS: "Rows in the calls of variants",
    _COST: "Price of the rows in the calls of variants, by the route's cost_per_1000",
    _PREDICTIONS: "Responses of a variant with a latency prediction",
    _KEPT: "Responses within their predicted p95; 95 % of the predictions if they are accurate",
    _PREDICTED: "Sum of the predicted p95 in seconds",
    _OBSERVED: "Sum of the observed latencies of predicted responses in seconds",
    _TRAFFIC_ERRORS: "Reads of traffic.json that found it invalid; the last valid one stays in effect",
}
_WAITING = "trireme_router_waiting_rows"
_BREAKER = "trireme_router_breaker_state"
_GAUGES = {
    _WAITING: "Rows waiting in the router for a call of the variant",
    _BREAKER: "Circuit breaker of a variant: 0 closed, 1 half open, 2 open",
}
_LATENCY = "trireme_router_latency_seconds"
_HISTOGRAMS = {
    _LATENCY: (
        "Time from a request's arrival at the router to its response in seconds",
        [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0],
    ),
}


class RouterMetrics:
    """A ``selection.Observer`` that writes metrics; ``pb_utils`` is ``triton_python_backend_utils``."""

    def __init__(self, pb_utils: Any, route: Route) -> None:
        self._logger = pb_utils.Logger
        self._task = route.task
        costs = {variant.name: variant.cost_per_1000 / 1000 for variant in route.variants}
        self._row_costs = {**costs, **{variant.canary: costs[variant.name] for variant in route.variants}}
        self._replies: deque[tuple[RouteOutputs, float, str]] = deque()
        self._refusals: deque[tuple[BackendError, str]] = deque()
        self._calls: deque[tuple[str, str, int]] = deque()
        self._predictions: deque[tuple[str, float, float]] = deque()
        self._breaker_changes: deque[tuple[str, BreakerState]] = deque()
        self._traffic_errors: deque[str] = deque()
        # Read before each send; set by the owner of the queues.
        self.waiting_rows: Callable[[], Mapping[str, int]] = dict
        self._writer = MetricWriter(
            pb_utils, {"task": route.task}, counters=_COUNTERS, gauges=_GAUGES, histograms=_HISTOGRAMS
        )
        for name in costs:
            self._writer.set(_BREAKER, _BREAKER_VALUES[BreakerState.CLOSED], variant=name)
        self._writer.start(self._collect)

    def close(self) -> None:
        """Send the last events and stop."""
        self._writer.close()

    def replied(self, route: RouteOutputs, *, seen_ms: float, request_id: str) -> None:
        self._replies.append((route, seen_ms, request_id))

    def rejected(self, error: BackendError, *, request_id: str) -> None:
        self._refusals.append((error, request_id))

    def called(self, variant: str, outcome: str, *, rows: int) -> None:
        self._calls.append((variant, outcome, rows))

    def predicted(self, variant: str, *, p95_ms: float, seen_ms: float) -> None:
        self._predictions.append((variant, p95_ms, seen_ms))

    def breaker_changed(self, variant: str, state: BreakerState) -> None:
        self._breaker_changes.append((variant, state))

    def traffic_error(self, message: str) -> None:
        self._traffic_errors.append(message)

    def _collect(self) -> None:
        count = self._writer.count
        for route, seen_ms, request_id in drain(self._replies):
            reason = route.reason.value
            count(_REQUESTS, variant=route.variant, version=route.version, outcome="answered", reason=reason)
            self._writer.observe(_LATENCY, seen_ms / 1000, variant=route.variant)
            if route.reason is Reason.FALLBACK:
                self._log(route.reason_json, request_id, variant=route.variant, version=route.version)
        for error, request_id in drain(self._refusals):
            outcome = {"INVALID_ARG": "invalid", "UNAVAILABLE": "unavailable"}.get(error.code, "failed")
            count(_REQUESTS, variant="", version="", outcome=outcome, reason="")
            # The caller gets the message about its own mistake; it would fill the log.
            if outcome != "invalid":
                self._log(str(error), request_id)
        for variant, outcome, rows in drain(self._calls):
            count(_CALLS, variant=variant, outcome=outcome)
            count(_CALLED_ROWS, rows, variant=variant)
            count(_COST, rows * self._row_costs[variant], variant=variant)
        for variant, p95_ms, seen_ms in drain(self._predictions):
            count(_PREDICTIONS, variant=variant)
            count(_KEPT, seen_ms <= p95_ms, variant=variant)
            count(_PREDICTED, p95_ms / 1000, variant=variant)
            count(_OBSERVED, seen_ms / 1000, variant=variant)
        # Present from the start, so that an alert on its increase works.
        count(_TRAFFIC_ERRORS, 0)
        for message in drain(self._traffic_errors):
            self._logger.log_error(f"router {self._task}: {message}; the last valid traffic stays in effect")
            count(_TRAFFIC_ERRORS)
        for variant, rows in self.waiting_rows().items():
            self._writer.set(_WAITING, rows, variant=variant)
        for variant, state in drain(self._breaker_changes):
            self._logger.log_warn(f"router {self._task}: breaker of {variant} is {state.value}")
            self._writer.set(_BREAKER, _BREAKER_VALUES[state], variant=variant)

    def _log(self, message: str, request_id: str, **more: str) -> None:
        line = {"message": message, "request_id": request_id, "model": self._task, **more}
        self._logger.log_warn(json.dumps({name: value for name, value in line.items() if value}))
