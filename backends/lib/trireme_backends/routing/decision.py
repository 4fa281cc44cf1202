"""Which variant answers: a pure function of the rules, the request, the variants' state and the time that is left.

1. Hard limits: a variant below ``min_quality``, above ``max_cost`` or of another output space is never chosen.
2. Of the rest, those that are in service and were not yet tried for this request.
3. A tier is a ceiling: the variants up to it; only when none of them is in service, the nearest tier above.
4. Of these the one nearest to the tier (without a tier the best one) whose predicted p95 fits the time that is left;
   where none fits the fastest, marked ``sla_at_risk``, unless the caller asked to be refused then. Fastest is the one
   with the least ``expected_latency_ms``, whatever waits before it: variants share a machine, and to spread a surplus
   over their queues would have the slow ones take the time in which the fast one could catch up.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import cast

from trireme_backends.routing.errors import LimitError, UnavailableError
from trireme_backends.routing.parameters import Ask, OnSlaRisk
from trireme_backends.routing.route import AUTO, Route, Tier, Variant

Preference = Callable[[Variant], tuple[float, float, float]]


class Reason(str, Enum):
    """Why a row was answered by the variant it was answered by."""

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


class Verdict(str, Enum):
    """What the decision found of one variant."""

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
    """What is known of a variant at the moment of the decision.

    Attributes:
        quality: 0 to 1. predicted_p95_ms: for this request, queue included.
    """

    quality: float
    predicted_p95_ms: float
    health: Health = Health.READY


@dataclass(frozen=True, slots=True)
class Considered:
    """One variant with the numbers it was judged by."""

    variant: Variant
    state: VariantState
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Decision:
    """The variant that answers, and why.

    Attributes:
        predicted_p95_ms: of the variant. time_left_ms: what it had to fit into.
        reserve_ms: predicted p95 of the fastest other variant that could step in; None where there is none.
        verdicts, states: by variant name, for each variant of the route.
    """

    variant: Variant
    reason: Reason
    predicted_p95_ms: float
    time_left_ms: float
    reserve_ms: float | None
    route: Route
    verdicts: Mapping[str, Verdict]
    states: Mapping[str, VariantState]

    @property
    def considered(self) -> list[Considered]:
        """Every variant of the route with the numbers it was judged by."""
        return [
            Considered(variant, self.states[variant.name], self.verdicts[variant.name])
            for variant in self.route.variants
        ]


def decide(
    route: Route,
    ask: Ask,
    states: Mapping[str, VariantState],
    *,
    tier: Tier | None,
    time_left_ms: float,
    tried: Collection[str] = (),
    headroom: float = 1.0,
) -> Decision:
    """Choose the variant for one request.

    Args:
        states: by variant name, for each variant of the route.
        tier: the ceiling; ``None``: none.
        time_left_ms: of the SLA, or of the route's deadline where the caller set none.
        tried: variants that failed this request.
        headroom: share of the time left that all but the fastest variant may take, see ``headroom``.

    Raises:
        LimitError: no variant keeps the hard limits.
        UnavailableError: no variant that keeps them is in service; or none is fast enough and the caller asked to be
            refused then.
    """
    preference = _preference(tier, states)
    space = _output_space(route, tier, preference)
    verdicts = {variant.name: _hard_verdict(variant, ask, states[variant.name], space) for variant in route.variants}
    if all(verdict is not None for verdict in verdicts.values()):
        raise LimitError(_limit_sentence(route, states, verdicts))
    for variant in route.variants:
        verdicts[variant.name] = verdicts[variant.name] or _service_verdict(variant, states[variant.name], tried)
    ready = [variant for variant in route.variants if verdicts[variant.name] is None]
    if not ready:
        raise UnavailableError(_unavailable_sentence(route, verdicts))

    pool = _within_tier(ready, tier)
    fastest = min(pool, key=lambda variant: (variant.expected_latency_ms, -states[variant.name].quality))
    fitting = [
        variant
        for variant in pool
        if states[variant.name].predicted_p95_ms <= time_left_ms * (1.0 if variant is fastest else headroom)
    ]
    if fitting:
        chosen = max(fitting, key=preference)
    elif ask.on_sla_risk is OnSlaRisk.REFUSE:
        fastest_ms = states[fastest.name].predicted_p95_ms
        raise UnavailableError(
            f"no variant is predicted to answer within {time_left_ms:.0f} ms, the fastest within {fastest_ms:.0f} ms; "
            "ask again later, allow more time, or do without on_sla_risk=refuse"
        )
    else:
        chosen = fastest

    for variant in ready:
        if variant is chosen:
            verdicts[variant.name] = Verdict.CHOSEN
        elif variant not in pool:
            verdicts[variant.name] = Verdict.ABOVE_TIER
        else:
            verdicts[variant.name] = Verdict.LESS_PREFERRED if variant in fitting else Verdict.TOO_SLOW
    others = [states[variant.name].predicted_p95_ms for variant in ready if variant is not chosen]
    return Decision(
        variant=chosen,
        reason=_reason(route, ask, chosen, tier, fits=bool(fitting), tried=tried, verdicts=verdicts),
        predicted_p95_ms=states[chosen.name].predicted_p95_ms,
        time_left_ms=time_left_ms,
        reserve_ms=min(others, default=None),
        route=route,
        verdicts=cast(Mapping[str, Verdict], verdicts),
        states=states,
    )


def asked_tier(route: Route, ask: Ask) -> Tier | None:
    """The ceiling a request is under: its own, else the route's default; ``None`` for ``auto``."""
    if ask.tier is None:
        return route.default_tier
    return None if ask.tier == AUTO else Tier(ask.tier)


def _output_space(route: Route, tier: Tier | None, preference: Preference) -> str | None:
    """The space of the best variant of the tier: what the caller's other answers are compared with."""
    of_tier = [variant for variant in route.variants if tier is None or variant.tier is tier]
    return max(of_tier or route.variants, key=preference).output_space


def _hard_verdict(variant: Variant, ask: Ask, state: VariantState, space: str | None) -> Verdict | None:
    if ask.min_quality is not None and state.quality < ask.min_quality:
        return Verdict.BELOW_MIN_QUALITY
    if ask.max_cost is not None and variant.cost_per_1000 > ask.max_cost:
        return Verdict.ABOVE_MAX_COST
    return Verdict.OTHER_OUTPUT_SPACE if variant.output_space != space else None


def _service_verdict(variant: Variant, state: VariantState, tried: Collection[str]) -> Verdict | None:
    if variant.name in tried:
        return Verdict.ALREADY_TRIED
    return None if state.health is Health.READY else Verdict(state.health.value)


def _within_tier(ready: Sequence[Variant], tier: Tier | None) -> Sequence[Variant]:
    if tier is None:
        return ready
    below = [variant for variant in ready if variant.tier.rank <= tier.rank]
    if below:
        return below
    nearest = min(variant.tier.rank for variant in ready)
    return [variant for variant in ready if variant.tier.rank == nearest]


def _preference(tier: Tier | None, states: Mapping[str, VariantState]) -> Preference:
    """With a tier the nearest to it first, without one the best quality; of equals the cheaper one."""

    def key(variant: Variant) -> tuple[float, float, float]:
        quality = states[variant.name].quality
        return (0 if tier is None else variant.tier.rank, quality, -variant.cost_per_1000)

    return key


def _reason(
    route: Route,
    ask: Ask,
    chosen: Variant,
    tier: Tier | None,
    *,
    fits: bool,
    tried: Collection[str],
    verdicts: Mapping[str, Verdict | None],
) -> Reason:
    if not fits:
        return Reason.SLA_AT_RISK
    if tried:
        return Reason.FALLBACK
    slow = any(verdict is Verdict.TOO_SLOW for verdict in verdicts.values())
    if tier is None:
        return Reason.MOVED_DOWN if slow else Reason.BEST_IN_TIME
    if chosen.tier is tier:
        # A ceiling that the caller did not ask for is that of a cascade.
        return Reason.CASCADE_FIRST if asked_tier(route, ask) is None else Reason.REQUESTED_TIER
    asked_is_slow = any(verdicts[v.name] is Verdict.TOO_SLOW for v in route.variants if v.tier is tier)
    return Reason.MOVED_DOWN if asked_is_slow else Reason.TIER_UNAVAILABLE


def _limit_sentence(route: Route, states: Mapping[str, VariantState], verdicts: Mapping[str, Verdict | None]) -> str:
    told = ", ".join(
        f"{variant.name} (quality {states[variant.name].quality:.3f}, cost {variant.cost_per_1000:g}: {verdict.value})"
        for variant in route.variants
        if (verdict := verdicts[variant.name]) is not None
    )
    return f"no variant of {route.task} keeps the limits of the request: {told}"


def _unavailable_sentence(route: Route, verdicts: Mapping[str, Verdict | None]) -> str:
    told = ", ".join(
        f"{variant.name} ({verdict.value})"
        for variant in route.variants
        if (verdict := verdicts[variant.name]) is not None
    )
    return f"no variant of {route.task} can answer now: {told}; ask again later"
