"""Routes whose callers stream from the variant themselves: names the variant, and learns from callers' reports.

The predicted values are a variant's time to the first token and its time per token. Both grow with the number of
streams that share the engine. The router knows this number at once: the callers it sent there that have not reported
yet. The lines of ``latency`` are therefore fitted over the number of streams; a long prompt adds a constant from
``route.json``.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from trireme_backends.routing.breaker import BreakerState
from trireme_backends.routing.decision import Health, Reason, requested_tier
from trireme_backends.routing.errors import Fault
from trireme_backends.routing.latency import LatencyEstimator
from trireme_backends.routing.parameters import StreamParameters, StreamReport
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.route import CANARY_SUFFIX, Route, Variant
from trireme_backends.routing.selection import Endpoint, Observer, RouteOutputs, Selector
from trireme_backends.routing.traffic import TrafficFile

# Even an empty response takes an engine some time; the fitted line must not fall to zero.
_LEAST_MS = 0.1


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """A request for a variant, or a report; both have the same ``request_id``. Times of the monotonic clock."""

    parameters: StreamParameters
    prompt_characters: int
    request_id: str
    deadline: float


@dataclass(frozen=True, slots=True)
class _OpenStream:
    """A stream assigned to a variant and not reported yet; ``streams``: number of streams including it."""

    streams: int
    prompt_characters: int
    ttft_point_ms: float
    pace_point_ms: float
    deadline: float
    probe: bool


class StreamEndpoint(Endpoint):
    """A variant or canary with its open streams. ``latency`` is of the first token, ``pace`` of the others."""

    def __init__(self, name: str, variant: Variant, observer: Observer, is_loaded: Callable[[str], bool]) -> None:
        super().__init__(name, variant, observer)
        self.pace = LatencyEstimator(variant.expected_ms_per_token)
        self.open: dict[str, _OpenStream] = {}
        self._is_loaded = is_loaded

    def health(self, now: float) -> Health:
        if not self._is_loaded(self.name):
            return Health.NOT_LOADED
        if self.breaker.state is not BreakerState.CLOSED and not self.breaker.probe_due(now):
            return Health.BREAKER_OPEN
        return Health.SATURATED if len(self.open) >= self.variant.limits.max_streams else Health.READY

    def points_ms(self, prompt_characters: int, now: float) -> tuple[float, float]:
        """Expected time to the first token, and per token, of an additional stream."""
        streams = len(self.open) + 1
        ttft_ms = self.latency.call_ms(streams, now) + self.prefill_ms(prompt_characters)
        return ttft_ms, self.pace.call_ms(streams, now)

    def prefill_ms(self, prompt_characters: int) -> float:
        return self.variant.prefill_ms_per_1000_characters * prompt_characters / 1000

    def expire(self, now: float) -> None:
        """Remove streams that were never reported; a probe among them has failed."""
        for request_id in [key for key, stream in self.open.items() if stream.deadline <= now]:
            if self.open.pop(request_id).probe:
                self.breaker.failed(now)


class StreamRouter:
    """Names variants to the callers of one route.

    Example:
        >>> router = StreamRouter(route, pins=pins, traffic=traffic, observer=observer)
        >>> router.route(StreamRequest(parameters, prompt_characters=42, request_id="a", deadline=deadline))
    """

    def __init__(
        self,
        route: Route,
        *,
        pins: Pins,
        traffic: TrafficFile,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
        is_loaded: Callable[[str], bool] = lambda name: True,  # noqa: ARG005
    ) -> None:
        """``is_loaded``: whether the server has loaded a variant; a variant that is not loaded cannot be chosen."""
        self._route, self._pins, self._observer, self._clock = route, pins, observer, clock
        endpoint = functools.partial(StreamEndpoint, is_loaded=is_loaded)
        self._selector = Selector(route, endpoint, pins=pins, traffic=traffic, observer=observer)
        self._lock = threading.Lock()

    def route(self, request: StreamRequest) -> RouteOutputs | None:
        """Return the variant to stream from; None for a report.

        Raises:
            LimitError, UnavailableError: see ``decision.decide``.
        """
        now = self._clock()
        with self._lock:
            for endpoint in self._selector.endpoints.values():
                endpoint.expire(now)
            if request.parameters.report is not None:
                self._learn(request, request.parameters.report, now)
                return None
            for name, fault in request.parameters.tried.items():
                self._learn(request, StreamReport(name, fault=fault), now)
            self._selector.check_traffic()
            return self._assign(request, now)

    def _assign(self, request: StreamRequest, now: float) -> RouteOutputs:
        parameters = request.parameters
        time_left_ms = parameters.max_ttft_ms or self._route.deadline_ms
        selection = self._selector.select(
            parameters.routing,
            lambda endpoint: self._predict_p95_ms(endpoint, request, time_left_ms, now),
            tier=requested_tier(self._route, parameters.routing),
            time_left_ms=time_left_ms,
            tried=[name.removesuffix(CANARY_SUFFIX) for name in parameters.tried],
            now=now,
        )
        endpoint = selection.endpoint
        ttft_ms, pace_ms = endpoint.points_ms(request.prompt_characters, now)
        probe = endpoint.breaker.state is not BreakerState.CLOSED
        if probe:
            endpoint.breaker.probe_sent()
        if request.request_id:
            endpoint.open[request.request_id] = _OpenStream(
                len(endpoint.open) + 1, request.prompt_characters, ttft_ms, pace_ms, request.deadline, probe
            )
        details: dict[str, object] = {
            "predicted_ttft_p95_ms": round(endpoint.latency.p95_ms(ttft_ms, now), 2),
            "predicted_p95_ms_per_token": round(endpoint.pace.p95_ms(pace_ms, now), 2),
            "streams": len(endpoint.open),
        }
        if selection.decision.reserve_ms is not None:
            # How long the caller waits for the first token before it requests another variant.
            details["leave_after_ms"] = endpoint.variant.limits.timeout_ms
        pin = self._pins.pin(endpoint.name)
        if pin.is_whole_variant:
            # A cancellation reaches this model; an ensemble does not forward it.
            details["stream_from"] = {"model": pin.model, "version": pin.version}
        reason = selection.decision.reason
        if parameters.tried:
            reason = Reason.FALLBACK
            details["tried"] = [{"variant": name, "fault": fault.value} for name, fault in parameters.tried.items()]
        return selection.outputs(pin.version, reason, details, explain=parameters.routing.explain)

    def _predict_p95_ms(
        self, endpoint: StreamEndpoint, request: StreamRequest, time_left_ms: float, now: float
    ) -> float:
        ttft_ms, pace_ms = endpoint.points_ms(request.prompt_characters, now)
        p95_ms = endpoint.latency.p95_ms(ttft_ms, now)
        max_ms_per_token = request.parameters.max_ms_per_token
        if max_ms_per_token is None:
            return p95_ms
        # One number decides: that of the tighter limit, as a share of the time to the first token.
        return max(p95_ms, endpoint.pace.p95_ms(pace_ms, now) / max_ms_per_token * time_left_ms)

    def _learn(self, request: StreamRequest, report: StreamReport, now: float) -> None:
        endpoint = self._selector.endpoints.get(report.variant)
        if endpoint is None:
            return
        stream = endpoint.open.pop(request.request_id, None)
        if report.fault is Fault.UNSUPPORTED:
            # It has responded: a missing feature does not make it unhealthy.
            endpoint.breaker.succeeded()
        elif report.fault is not None:
            # For a variant that is not loaded one report is enough: no caller can use it.
            endpoint.breaker.failed(now, is_proof=report.fault is Fault.NOT_READY)
        elif report.ttft_ms is not None:
            endpoint.breaker.succeeded()
        self._observer.called(report.variant, report.fault.value if report.fault else "ok", rows=1)
        if stream is None:
            return
        if report.ttft_ms is not None:
            own_ms = max(report.ttft_ms - endpoint.prefill_ms(stream.prompt_characters), _LEAST_MS)
            endpoint.latency.call_ended(rows=stream.streams, call_ms=own_ms, now=now)
            endpoint.latency.request_ended(point_ms=stream.ttft_point_ms, seen_ms=report.ttft_ms, now=now)
            p95_ms = endpoint.latency.p95_ms(stream.ttft_point_ms, now)
            self._observer.predicted(report.variant, p95_ms=p95_ms, seen_ms=report.ttft_ms)
        if report.ms_per_token is not None:
            pace_ms = max(report.ms_per_token, _LEAST_MS)
            endpoint.pace.call_ended(rows=stream.streams, call_ms=pace_ms, now=now)
            endpoint.pace.request_ended(point_ms=stream.pace_point_ms, seen_ms=pace_ms, now=now)
