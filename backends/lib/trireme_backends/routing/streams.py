"""A route whose callers stream from the variant themselves: names the variant, and learns from what they report.

What is predicted of a variant are its time to the first token and its time per token. Both grow with the streams that
share the engine, which the router knows at once: it named the variant to them, and they have not reported yet. So the
lines of ``latency`` are fitted over the number of streams; what a long prompt adds is a constant of ``route.json``.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from trireme_backends.routing.breaker import BreakerState, CircuitBreaker
from trireme_backends.routing.decision import Decision, Health, Reason, VariantState, asked_tier, decide
from trireme_backends.routing.dispatcher import Observer
from trireme_backends.routing.errors import Fault
from trireme_backends.routing.latency import LatencyEstimator
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.route import CANARY_SUFFIX, Route, Variant
from trireme_backends.routing.stream_ask import Report, StreamAsk
from trireme_backends.routing.traffic import TrafficFile, sticky_position
from trireme_backends.routing.work import RowRoute, considered_json

# An engine's answer to nothing takes some time, too; the line must not fall to zero.
_LEAST_MS = 0.1


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """One question or report: ``request_id`` is the same for both; times of the monotonic clock."""

    asked: StreamAsk
    prompt_characters: int
    request_id: str
    deadline: float


@dataclass(frozen=True, slots=True)
class _Running:
    """A stream that was handed to a variant and is not reported yet."""

    streams: int
    prompt_characters: int
    ttft_point_ms: float
    pace_point_ms: float
    deadline: float
    probe: bool


class _Lane:
    """What is known of one variant or canary."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        self.breaker = CircuitBreaker()
        self.ttft = LatencyEstimator(variant.expected_latency_ms)
        self.pace = LatencyEstimator(variant.expected_ms_per_token)
        self.running: dict[str, _Running] = {}

    def health(self, now: float) -> Health:
        if self.breaker.state is not BreakerState.CLOSED and not self.breaker.probe_due(now):
            return Health.BREAKER_OPEN
        return Health.SATURATED if len(self.running) >= self.variant.limits.max_streams else Health.READY

    def point(self, prompt_characters: int, now: float) -> tuple[float, float]:
        """Expected time to the first token, and per token, of one stream more."""
        streams = len(self.running) + 1
        ttft_ms = self.ttft.call_ms(streams, now) + self.prefill_ms(prompt_characters)
        return ttft_ms, self.pace.call_ms(streams, now)

    def prefill_ms(self, prompt_characters: int) -> float:
        return self.variant.prefill_ms_per_1000_characters * prompt_characters / 1000

    def expire(self, now: float) -> None:
        """Forget streams whose callers never reported; a probe among them has failed."""
        for request_id in [key for key, stream in self.running.items() if stream.deadline <= now]:
            if self.running.pop(request_id).probe:
                self.breaker.failed(now)


class Streams:
    """Answers the questions of one route.

    Example:
        >>> streams = Streams(route, pins=pins, traffic=traffic, observer=observer)
        >>> streams.answer(StreamRequest(asked, prompt_characters=42, request_id="a", deadline=deadline))
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
        """``is_loaded``: whether the server has loaded a variant now; one that it has not cannot be chosen."""
        self._route, self._pins, self._traffic, self._observer, self._clock = route, pins, traffic, observer, clock
        self._is_loaded = is_loaded
        self._lanes = {variant.name: _Lane(variant) for variant in route.variants}
        self._lock = threading.Lock()

    def answer(self, request: StreamRequest) -> RowRoute | None:
        """Where to stream from; None for a report.

        Raises:
            LimitError, UnavailableError: see ``decision.decide``.
        """
        now = self._clock()
        with self._lock:
            for lane in self._lanes.values():
                lane.expire(now)
            asked = request.asked
            if asked.report is not None:
                self._learn(request, asked.report, now)
                return None
            for name, fault in asked.tried.items():
                self._learn(request, Report(name, fault=fault), now)
            return self._decide(request, now)

    def _decide(self, request: StreamRequest, now: float) -> RowRoute:
        asked, route = request.asked, self._route
        time_left_ms = asked.max_ttft_ms or route.deadline_ms
        states = {variant.name: self._state(variant, request, time_left_ms, now) for variant in route.variants}
        decision = decide(
            route, asked.ask, states, tier=asked_tier(route, asked.ask), time_left_ms=time_left_ms,
            tried=[name.removesuffix(CANARY_SUFFIX) for name in asked.tried],
        )  # fmt: skip
        lane, name = self._side(request, decision.variant)
        ttft_ms, pace_ms = lane.point(request.prompt_characters, now)
        probe = lane.breaker.state is not BreakerState.CLOSED
        if probe:
            lane.breaker.probe_sent()
            self._observer.breaker(name, lane.breaker.state)
        if request.request_id:
            streams, deadline = len(lane.running) + 1, request.deadline
            running = _Running(streams, request.prompt_characters, ttft_ms, pace_ms, deadline, probe)
            lane.running[request.request_id] = running
        told = self._told(decision, name, lane, (ttft_ms, pace_ms), request, now)
        pin = self._pins.pin(name)
        if pin.is_whole_variant:
            # A cancellation reaches this model; an ensemble does not hand it on.
            told["stream_from"] = {"model": pin.model, "version": pin.version}
        return RowRoute(name, pin.version, decision.reason, json.dumps(told))

    def _state(self, variant: Variant, request: StreamRequest, time_left_ms: float, now: float) -> VariantState:
        lane = self._lanes[variant.name]
        ttft_ms, pace_ms = lane.point(request.prompt_characters, now)
        p95_ms = lane.ttft.p95_ms(ttft_ms, now)
        if request.asked.max_ms_per_token is not None:
            # One number decides: whichever of the two limits is nearer, as a share of the time to the first token.
            p95_ms = max(p95_ms, lane.pace.p95_ms(pace_ms, now) / request.asked.max_ms_per_token * time_left_ms)
        health = lane.health(now) if self._is_loaded(variant.name) else Health.NOT_LOADED
        return VariantState(self._pins.quality(variant), p95_ms, health)

    def _side(self, request: StreamRequest, variant: Variant) -> tuple[_Lane, str]:
        """The variant's lane, or its canary's where the traffic says so and the canary is well."""
        errors = self._traffic.errors
        traffic = self._traffic.current()
        if self._traffic.errors != errors:
            self._observer.traffic_error(str(self._traffic.last_error))
        key = request.asked.ask.sticky_key
        position = random.random() * 100 if key is None else sticky_position(key)
        if traffic.goes_to_canary(variant.name, position) and variant.canary not in request.asked.tried:
            canary = self._lanes.setdefault(variant.canary, _Lane(variant))
            if canary.health(self._clock()) is Health.READY and self._is_loaded(variant.canary):
                return canary, variant.canary
        return self._lanes[variant.name], variant.name

    def _learn(self, request: StreamRequest, report: Report, now: float) -> None:
        lane = self._lanes.get(report.variant)
        if lane is None:
            return
        stream = lane.running.pop(request.request_id, None)
        before = lane.breaker.state
        if report.fault is Fault.UNSUPPORTED:
            # It has answered; what it lacks is no sickness.
            lane.breaker.succeeded()
        elif report.fault is not None:
            # Of a variant that is not loaded one report is enough: nobody can use it.
            lane.breaker.failed(now, surely=report.fault is Fault.NOT_READY)
        elif report.ttft_ms is not None:
            lane.breaker.succeeded()
        if lane.breaker.state is not before:
            self._observer.breaker(report.variant, lane.breaker.state)
        self._observer.called(report.variant, report.fault.value if report.fault else "ok", rows=1)
        if stream is None:
            return
        if report.ttft_ms is not None:
            own_ms = max(report.ttft_ms - lane.prefill_ms(stream.prompt_characters), _LEAST_MS)
            lane.ttft.call_ended(rows=stream.streams, call_ms=own_ms, now=now)
            lane.ttft.answered(point_ms=stream.ttft_point_ms, seen_ms=report.ttft_ms, now=now)
            p95_ms = lane.ttft.p95_ms(stream.ttft_point_ms, now)
            self._observer.predicted(report.variant, p95_ms=p95_ms, seen_ms=report.ttft_ms)
        if report.ms_per_token is not None:
            pace_ms = max(report.ms_per_token, _LEAST_MS)
            lane.pace.call_ended(rows=stream.streams, call_ms=pace_ms, now=now)
            lane.pace.answered(point_ms=stream.pace_point_ms, seen_ms=pace_ms, now=now)

    def _told(
        self, decision: Decision, name: str, lane: _Lane, point: tuple[float, float], request: StreamRequest, now: float
    ) -> dict[str, Any]:
        """``ROUTE_REASON``; ``docs/routing.md`` tells the keys."""
        asked = request.asked
        reason = Reason.FALLBACK if asked.tried else decision.reason
        told: dict[str, Any] = {
            "reason": reason.value,
            "tier": decision.variant.tier.value,
            "predicted_ttft_p95_ms": round(lane.ttft.p95_ms(point[0], now), 2),
            "predicted_p95_ms_per_token": round(lane.pace.p95_ms(point[1], now), 2),
            "streams": len(lane.running),
        }
        if decision.reserve_ms is not None:
            # So long the caller waits for the first token before it goes on to another variant.
            told["leave_after_ms"] = lane.variant.limits.timeout_ms
        if decision.reason is Reason.SLA_AT_RISK:
            told["sla_at_risk"] = True
        if name != decision.variant.name:
            told["canary"] = True
        if asked.tried:
            told["tried"] = [{"variant": variant, "fault": fault.value} for variant, fault in asked.tried.items()]
        if asked.ask.explain:
            told["time_left_ms"] = round(decision.time_left_ms, 2)
            told["considered"] = considered_json(decision)
        return told
