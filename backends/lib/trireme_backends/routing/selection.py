"""The choice of a variant and of its canary side: the same for requests that the router serves and for streams.

``Selector`` holds an ``Endpoint`` for each variant and canary, collects their states for ``decide``, sends the canary
its share, and reports invalid traffic files; ``Selection`` turns the result into ``ROUTE_REASON``.
"""

from __future__ import annotations

import functools
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from trireme_backends.errors import BackendError
from trireme_backends.routing.breaker import BreakerState, CircuitBreaker
from trireme_backends.routing.decision import Decision, Health, Reason, VariantState, decide
from trireme_backends.routing.latency import LatencyEstimator
from trireme_backends.routing.parameters import RoutingParameters
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.route import Route, Tier, Variant
from trireme_backends.routing.traffic import Traffic, TrafficFile, sticky_position


@dataclass(frozen=True, slots=True)
class RouteOutputs:
    """The outputs ``VARIANT``, ``VARIANT_VERSION`` and ``ROUTE_REASON`` of one row."""

    variant: str
    version: str
    reason: Reason
    reason_json: str


class Observer(Protocol):
    """Is notified from any thread, under the router's lock; must return at once."""

    def replied(self, route: RouteOutputs, *, seen_ms: float, request_id: str) -> None: ...
    def rejected(self, error: BackendError, *, request_id: str) -> None: ...
    def called(self, variant: str, outcome: str, *, rows: int) -> None: ...
    def predicted(self, variant: str, *, p95_ms: float, seen_ms: float) -> None: ...
    def breaker_changed(self, variant: str, state: BreakerState) -> None: ...
    def traffic_error(self, message: str) -> None: ...


class Endpoint(ABC):
    """One variant or canary, with its breaker and latency. Used under the router's lock."""

    def __init__(self, name: str, variant: Variant, observer: Observer) -> None:
        self.name = name
        self.variant = variant
        self.latency = LatencyEstimator(variant.expected_latency_ms)
        self.breaker = CircuitBreaker(functools.partial(observer.breaker_changed, name))

    @abstractmethod
    def health(self, now: float) -> Health:
        """Whether it can receive a request."""


E = TypeVar("E", bound=Endpoint)


@dataclass(frozen=True, slots=True)
class Selection(Generic[E]):
    """A decision, and the endpoint of the variant or its canary."""

    decision: Decision
    endpoint: E

    def outputs(self, version: str, reason: Reason, details: Mapping[str, object], *, explain: bool) -> RouteOutputs:
        """The route's outputs of a row; ``docs/routing.md`` describes the keys of ``ROUTE_REASON``."""
        decision = self.decision
        document: dict[str, Any] = {"reason": reason.value, "tier": decision.variant.tier.value, **details}
        if decision.reason is Reason.SLA_AT_RISK:
            document["sla_at_risk"] = True
        if self.endpoint.name != decision.variant.name:
            document["canary"] = True
        if explain:
            document["time_left_ms"] = round(decision.time_left_ms, 2)
            document["considered"] = [candidate.as_json() for candidate in decision.candidates]
        return RouteOutputs(self.endpoint.name, version, reason, json.dumps(document))


class Selector(Generic[E]):
    """Selects endpoints of one route. Used under the router's lock.

    Attributes:
        endpoints: by name; a canary is added with its first request.
    """

    def __init__(
        self,
        route: Route,
        endpoint: Callable[[str, Variant, Observer], E],
        *,
        pins: Pins,
        traffic: TrafficFile,
        observer: Observer,
    ) -> None:
        self._route, self._pins, self._traffic_file, self._observer = route, pins, traffic, observer
        self._traffic = Traffic()
        self._new_endpoint = endpoint
        self.endpoints = {variant.name: endpoint(variant.name, variant, observer) for variant in route.variants}

    def check_traffic(self) -> None:
        """Read the traffic file if it was replaced. Call it before selecting."""
        errors = self._traffic_file.errors
        self._traffic = self._traffic_file.current()
        if self._traffic_file.errors != errors:
            self._observer.traffic_error(str(self._traffic_file.last_error))

    def select(
        self,
        parameters: RoutingParameters,
        predict_p95_ms: Callable[[E], float],
        *,
        tier: Tier | None,
        time_left_ms: float,
        tried: Collection[str],
        now: float,
        time_share: float = 1.0,
    ) -> Selection[E]:
        """Choose the endpoint for one request; see ``decide`` for the arguments.

        Raises:
            LimitError, UnavailableError: see ``decide``.
        """
        states = {}
        for variant in self._route.variants:
            endpoint = self.endpoints[variant.name]
            states[variant.name] = VariantState(
                self._pins.quality(variant), predict_p95_ms(endpoint), endpoint.health(now)
            )
        decision = decide(
            self._route, parameters, states, tier=tier, time_left_ms=time_left_ms, tried=tried, time_share=time_share
        )
        return Selection(decision, self._side(decision.variant, parameters.sticky_key, tried, now))

    def _side(self, variant: Variant, sticky_key: str | None, tried: Collection[str], now: float) -> E:
        """The variant's endpoint, or its canary's if the traffic file selects it and the canary is ready."""
        stable = self.endpoints[variant.name]
        if variant.name not in self._traffic.canary_percent or variant.canary in tried:
            return stable
        position = random.random() * 100 if sticky_key is None else sticky_position(sticky_key)
        if not self._traffic.goes_to_canary(variant.name, position):
            return stable
        if variant.canary not in self.endpoints:
            self.endpoints[variant.canary] = self._new_endpoint(variant.canary, variant, self._observer)
        canary = self.endpoints[variant.canary]
        return canary if canary.health(now) is Health.READY else stable
