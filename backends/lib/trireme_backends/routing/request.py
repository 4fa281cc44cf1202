"""A request on its way through the router, and its result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import BackendError
from trireme_backends.routing.decision import Reason
from trireme_backends.routing.errors import Fault
from trireme_backends.routing.parameters import RoutingParameters
from trireme_backends.routing.route import Tier
from trireme_backends.routing.selection import RouteOutputs, Selection

if TYPE_CHECKING:
    from trireme_backends.routing.variant_queue import VariantQueue

Tensors = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, slots=True)
class RoutedResult:
    """Outputs of the task, [rows, ...] each, and the route of each row."""

    outputs: Tensors
    routes: list[RouteOutputs]


@dataclass(frozen=True, slots=True)
class FailedAttempt:
    """A variant (or canary) that failed to serve a request."""

    variant: str
    fault: Fault
    after_ms: float


@dataclass(frozen=True, slots=True)
class FirstTierResult:
    """The result of a cascade's first tier, kept in case the second tier fails.

    Attributes:
        request: the request with all its rows.
        unsure: indexes of the rows that go to the second tier.
        confidence: calibrated, of these rows.
    """

    request: RoutedRequest
    result: RoutedResult
    version: str
    seen_ms: float
    unsure: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]

    def with_routes(self, outputs: Tensors, route: Callable[..., RouteOutputs]) -> RoutedResult:
        """A result in which the unsure rows have routes made by ``route``, called with their confidence."""
        routes = list(self.result.routes)
        for row, value in zip(self.unsure.tolist(), self.confidence.tolist(), strict=True):
            routes[row] = route(confidence=value)
        return RoutedResult(outputs, routes)


@dataclass(slots=True, eq=False)
class RoutedRequest:
    """One request from its arrival to its reply.

    In a cascade, a copy carries the unsure rows to the second tier (``first_tier_result`` is set). Another copy probes
    a variant whose breaker is open (``probe``; it has no reply).

    Attributes:
        parameters: the router's.
        variant_parameters: the others, as JSON, for the variant.
        inputs: [rows, ...] each.
        arrived, deadline: times of the monotonic clock; after the deadline the request fails.
        reply: called once, from any thread, with the result or the error.
        request_id: passed to the variant if the request is not merged with others.
        tier: the ceiling.
        alone: not to be merged, since a merged call that contained it failed.
        attempt: number of the current attempt; a call or timer with an older number is outdated.
        placed: when the current attempt began.
        point_ms: expected time of the current attempt, see ``latency``.
        first_error: message of the first failed attempt.
    """

    parameters: RoutingParameters
    variant_parameters: str
    inputs: Tensors
    rows: int
    arrived: float
    deadline: float
    reply: Callable[[RoutedResult | BackendError], None]
    request_id: str = ""
    tier: Tier | None = None
    first_tier_result: FirstTierResult | None = None
    probe: bool = False
    alone: bool = field(default=False, init=False)
    attempt: int = field(default=0, init=False)
    placed: float = field(default=0.0, init=False)
    point_ms: float = field(default=0.0, init=False)
    selection: Selection[VariantQueue] | None = field(default=None, init=False)
    failed: list[FailedAttempt] = field(default_factory=list, init=False)
    first_error: str = field(default="", init=False)

    @property
    def sla_at(self) -> float | None:
        """The time at which ``max_latency_ms`` is over."""
        max_latency_ms = self.parameters.max_latency_ms
        return None if max_latency_ms is None else self.arrived + max_latency_ms / 1000

    @property
    def tried(self) -> list[str]:
        """The variants that must not be chosen again."""
        tried = [attempt.variant for attempt in self.failed]
        if self.first_tier_result and self.first_tier_result.request.selection:
            # It has served the request, but its confidence was low.
            tried.append(self.first_tier_result.request.selection.decision.variant.name)
        return tried

    def can_merge_with(self, other: RoutedRequest) -> bool:
        """Whether both may be rows of one call: same parameters, same inputs, same row shapes."""
        if self.alone or other.alone or self.variant_parameters != other.variant_parameters:
            return False
        mine, theirs = self.inputs, other.inputs
        return mine.keys() == theirs.keys() and all(mine[n].shape[1:] == theirs[n].shape[1:] for n in mine)

    def outputs(self, version: str, reason: Reason, **numbers: float) -> RouteOutputs:
        """The route of a row served by the selected endpoint."""
        assert self.selection is not None
        details: dict[str, object] = {
            "predicted_p95_ms": round(self.selection.decision.predicted_p95_ms, 2),
            **{name: round(value, 4) for name, value in numbers.items()},
        }
        if self.failed:
            details["tried"] = [
                {"variant": attempt.variant, "fault": attempt.fault.value, "after_ms": round(attempt.after_ms, 2)}
                for attempt in self.failed
            ]
        return self.selection.outputs(version, reason, details, explain=self.parameters.explain)
