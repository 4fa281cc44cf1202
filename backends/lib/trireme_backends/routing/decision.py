"""The choice of a variant: a pure function of the rules, the request, the variants' state and the remaining time.

1. Hard limits: a variant below ``min_quality``, above ``max_cost`` or in another output space is never chosen.
2. Of the rest, those that are in service and have not failed this request.
3. A tier is a ceiling: the variants up to it; if none of them is in service, the nearest tier above.
4. Of these the one nearest to the tier (without a tier, the best one) whose predicted p95 fits the remaining time. If
   none fits, the fastest, marked ``sla_at_risk``, or an error if the caller requested that. The fastest is the one with
   the least ``expected_latency_ms``, whatever its queue: variants share a machine, and a backlog spread over all queues
   lets the slow variants use the time in which the fast one could catch up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, cast

from trireme_backends.routing.errors import LimitError, UnavailableError
from trireme_backends.routing.parameters import OnSlaRisk, RoutingParameters
from trireme_backends.routing.route import AUTO, Route, Tier, Variant

Preference = Callable[[Variant], tuple[float, float, float]]


class Reason(str, Enum):
    """Why this variant served a row."""

    REQUESTED_TIER = "requested_tier"
    BEST_IN_TIME = "best_in_time"
    MOVED_DOWN = "moved_down"
    TIER_UNAVAILABLE = "tier_unavailable"
    SLA_AT_RISK = "sla_at_risk"
    FALLBACK = "fallback"
    CASCADE_FIRST = "cascade_first"
    CASCADE_SURE = "cascade_sure"
    CASCADE_ESCALATED = "cascade_escalated"
    CASCADE_KEPT = "cascade_kept"


class Health(str, Enum):
    """Whether a variant can be called."""

    READY = "ready"
    BREAKER_OPEN = "breaker_open"
    SATURATED = "saturated"
    NOT_LOADED = "not_loaded"


class CandidateStatus(str, Enum):
    """Result of the decision for one variant."""

    CHOSEN = "chosen"
    LESS_PREFERRED = "less_preferred"
    TOO_SLOW = "too_slow"
    ABOVE_TIER = "above_tier"
    BELOW_MIN_QUALITY = "below_min_quality"
    ABOVE_MAX_COST = "above_max_cost"
    OTHER_OUTPUT_SPACE = "other_output_space"
    ALREADY_TRIED = "already_tried"
    BREAKER_OPEN = "breaker_open"
    SATURATED = "saturated"
    NOT_LOADED = "not_loaded"


@dataclass(frozen=True, slots=True)
class VariantState:
    """State of a variant at the moment of the decision.

    Attributes:
        quality: 0 to 1.
        predicted_p95_ms: for this request, including its time in the queue.
    """

    quality: float
    predicted_p95_ms: float
    health: Health = Health.READY


@dataclass(frozen=True, slots=True)
class Candidate:
    """One variant of the route in a decision."""

    variant: Variant
    state: VariantState
    status: CandidateStatus

    def as_json(self) -> dict[str, Any]:
        """An entry of ``considered`` in ``ROUTE_REASON``."""
        return {
            "variant": self.variant.name,
            "tier": self.variant.tier.value,
            "verdict": self.status.value,
            "quality": round(self.state.quality, 4),
            "cost_per_1000": self.variant.cost_per_1000,
            "predicted_p95_ms": round(self.state.predicted_p95_ms, 2),
        }


@dataclass(frozen=True, slots=True)
class Decision:
    """The chosen variant and the reason.

    Attributes:
        predicted_p95_ms: of the variant.
        time_left_ms: the time it had to fit into.
        reserve_ms: predicted p95 of the fastest other variant that could replace it; None without such a variant.
        statuses, states: by variant name, for each variant of the route.
    """

    variant: Variant
    reason: Reason
    predicted_p95_ms: float
    time_left_ms: float
    reserve_ms: float | None
    route: Route
    statuses: Mapping[str, CandidateStatus]
    states: Mapping[str, VariantState]

    @property
    def candidates(self) -> list[Candidate]:
        """Every variant of the route, in its order."""
        return [
            Candidate(variant, self.states[variant.name], self.statuses[variant.name])
            for variant in self.route.variants
        ]


def decide(
    route: Route,
    parameters: RoutingParameters,
    states: Mapping[str, VariantState],
    *,
    tier: Tier | None,
    time_left_ms: float,
    tried: Collection[str] = (),
    time_share: float = 1.0,
) -> Decision:
    """Choose the variant for one request.

    Args:
        states: by variant name, for each variant of the route.
        tier: the ceiling; ``None`` for no ceiling.
        time_left_ms: until the SLA, or until the route's deadline if the caller set no SLA.
        tried: variants that failed this request.
        time_share: share of the remaining time that all but the fastest variant may take, see ``latency.TimeBudget``.

    Raises:
        LimitError: no variant meets the hard limits.
        UnavailableError: no variant that meets them is in service; or none is fast enough and ``on_sla_risk`` is
            ``refuse``.
    """
    preference = _preference(tier, states)
    space = _output_space(route, tier, preference)
    statuses = {
        variant.name: _hard_status(variant, parameters, states[variant.name], space) for variant in route.variants
    }
    if all(status is not None for status in statuses.values()):
        listed = _listed(
            route,
            statuses,
            lambda v, status: f"{v.name} (quality {states[v.name].quality:.3f}, cost {v.cost_per_1000:g}: {status})",
        )
        raise LimitError(f"no variant of {route.task} meets the limits of the request: {listed}")
    for variant in route.variants:
        statuses[variant.name] = statuses[variant.name] or _service_status(variant, states[variant.name], tried)
    ready = [variant for variant in route.variants if statuses[variant.name] is None]
    if not ready:
        listed = _listed(route, statuses, lambda variant, status: f"{variant.name} ({status})")
        raise UnavailableError(f"no variant of {route.task} is available: {listed}; retry later")

    pool = _within_tier(ready, tier)
    fastest = min(pool, key=lambda variant: (variant.expected_latency_ms, -states[variant.name].quality))
    fitting = [
        variant
        for variant in pool
        if states[variant.name].predicted_p95_ms <= time_left_ms * (1.0 if variant is fastest else time_share)
    ]
    if fitting:
        chosen = max(fitting, key=preference)
    elif parameters.on_sla_risk is OnSlaRisk.REFUSE:
        fastest_ms = states[fastest.name].predicted_p95_ms
        raise UnavailableError(
            f"no variant is predicted to respond within {time_left_ms:.0f} ms, the fastest within {fastest_ms:.0f} ms; "
            "retry later, allow more time, or omit on_sla_risk=refuse"
        )
    else:
        chosen = fastest

    for variant in ready:
        if variant is chosen:
            statuses[variant.name] = CandidateStatus.CHOSEN
        elif variant not in pool:
            statuses[variant.name] = CandidateStatus.ABOVE_TIER
        else:
            statuses[variant.name] = CandidateStatus.LESS_PREFERRED if variant in fitting else CandidateStatus.TOO_SLOW
    others = [states[variant.name].predicted_p95_ms for variant in ready if variant is not chosen]
    return Decision(
        variant=chosen,
        reason=_reason(route, parameters, chosen, tier, fits=bool(fitting), tried=tried, statuses=statuses),
        predicted_p95_ms=states[chosen.name].predicted_p95_ms,
        time_left_ms=time_left_ms,
        reserve_ms=min(others, default=None),
        route=route,
        statuses=cast(Mapping[str, CandidateStatus], statuses),
        states=states,
    )


def requested_tier(route: Route, parameters: RoutingParameters) -> Tier | None:
    """The ceiling of a request: its tier, or the route's default; ``None`` for ``auto``."""
    if parameters.tier is None:
        return route.default_tier
    return None if parameters.tier == AUTO else Tier(parameters.tier)


def _output_space(route: Route, tier: Tier | None, preference: Preference) -> str | None:
    """The output space of the tier's best variant, since the caller compares the outputs with each other."""
    of_tier = [variant for variant in route.variants if tier is None or variant.tier is tier]
    return max(of_tier or route.variants, key=preference).output_space


def _hard_status(
    variant: Variant, parameters: RoutingParameters, state: VariantState, space: str | None
) -> CandidateStatus | None:
    if parameters.min_quality is not None and state.quality < parameters.min_quality:
        return CandidateStatus.BELOW_MIN_QUALITY
    if parameters.max_cost is not None and variant.cost_per_1000 > parameters.max_cost:
        return CandidateStatus.ABOVE_MAX_COST
    return CandidateStatus.OTHER_OUTPUT_SPACE if variant.output_space != space else None


def _service_status(variant: Variant, state: VariantState, tried: Collection[str]) -> CandidateStatus | None:
    if variant.name in tried:
        return CandidateStatus.ALREADY_TRIED
    return None if state.health is Health.READY else CandidateStatus(state.health.value)


def _within_tier(ready: Sequence[Variant], tier: Tier | None) -> Sequence[Variant]:
    if tier is None:
        return ready
    below = [variant for variant in ready if variant.tier.rank <= tier.rank]
    if below:
        return below
    nearest = min(variant.tier.rank for variant in ready)
    return [variant for variant in ready if variant.tier.rank == nearest]


def _preference(tier: Tier | None, states: Mapping[str, VariantState]) -> Preference:
    """With a tier the nearest to it first, without one the best quality first; the cheaper one on a tie."""

    def key(variant: Variant) -> tuple[float, float, float]:
        quality = states[variant.name].quality
        return (0 if tier is None else variant.tier.rank, quality, -variant.cost_per_1000)

    return key


def _reason(
    route: Route,
    parameters: RoutingParameters,
    chosen: Variant,
    tier: Tier | None,
    *,
    fits: bool,
    tried: Collection[str],
    statuses: Mapping[str, CandidateStatus | None],
) -> Reason:
    if not fits:
        return Reason.SLA_AT_RISK
    if tried:
        return Reason.FALLBACK
    slow = any(status is CandidateStatus.TOO_SLOW for status in statuses.values())
    if tier is None:
        return Reason.MOVED_DOWN if slow else Reason.BEST_IN_TIME
    if chosen.tier is tier:
        # A ceiling that the caller did not request comes from a cascade.
        return Reason.CASCADE_FIRST if requested_tier(route, parameters) is None else Reason.REQUESTED_TIER
    requested_is_slow = any(statuses[v.name] is CandidateStatus.TOO_SLOW for v in route.variants if v.tier is tier)
    return Reason.MOVED_DOWN if requested_is_slow else Reason.TIER_UNAVAILABLE


def _listed(route: Route, statuses: Mapping[str, CandidateStatus | None], text: Callable[[Variant, str], str]) -> str:
    found = ((variant, statuses[variant.name]) for variant in route.variants)
    return ", ".join(text(variant, status.value) for variant, status in found if status is not None)
