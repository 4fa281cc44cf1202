"""Properties of every decision, whatever the state, and examples for readers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trireme_backends.routing.decision import (
    CandidateStatus,
    Decision,
    Health,
    Reason,
    VariantState,
    decide,
    requested_tier,
)
from trireme_backends.routing.errors import LimitError, UnavailableError
from trireme_backends.routing.parameters import OnSlaRisk, RoutingParameters
from trireme_backends.routing.route import AUTO, Route, Tier, Variant

ROUTE = Route(
    task="echo",
    default_tier=Tier.STANDARD,
    variants=(
        Variant("small", Tier.ECONOMY, 1, 2),
        Variant("medium", Tier.STANDARD, 2, 4),
        Variant("large", Tier.PREMIUM, 4, 8),
    ),
)
CALM = {"small": VariantState(0.7, 5), "medium": VariantState(0.8, 10), "large": VariantState(0.9, 20)}


def chosen(
    parameters: RoutingParameters,
    *,
    left: float = 1000,
    states: dict[str, VariantState] | None = None,
    tried: tuple[str, ...] = (),
) -> tuple[str, Reason]:
    decision = decide(
        ROUTE, parameters, states or CALM, tier=requested_tier(ROUTE, parameters), time_left_ms=left, tried=tried
    )
    return decision.variant.name, decision.reason


def with_health(name: str, health: Health) -> dict[str, VariantState]:
    return {**CALM, name: VariantState(CALM[name].quality, CALM[name].predicted_p95_ms, health)}


@pytest.mark.parametrize(
    ("parameters", "left", "name", "reason"),
    [
        (RoutingParameters(), 1000, "medium", Reason.REQUESTED_TIER),
        (RoutingParameters(tier=Tier.PREMIUM), 1000, "large", Reason.REQUESTED_TIER),
        (RoutingParameters(tier=Tier.PREMIUM), 15, "medium", Reason.MOVED_DOWN),
        (RoutingParameters(tier=Tier.PREMIUM), 6, "small", Reason.MOVED_DOWN),
        (RoutingParameters(tier=Tier.PREMIUM), 1, "small", Reason.SLA_AT_RISK),
        (RoutingParameters(tier=AUTO), 1000, "large", Reason.BEST_IN_TIME),
        (RoutingParameters(tier=AUTO), 15, "medium", Reason.MOVED_DOWN),
        (RoutingParameters(tier=AUTO, max_cost=2), 1000, "medium", Reason.BEST_IN_TIME),
        (RoutingParameters(tier=Tier.ECONOMY, min_quality=0.75), 1000, "medium", Reason.TIER_UNAVAILABLE),
    ],
)
def test_variant_follows_from_tier_time_and_limits(
    parameters: RoutingParameters, left: float, name: str, reason: Reason
) -> None:
    assert chosen(parameters, left=left) == (name, reason)


def test_variant_out_of_service_is_skipped() -> None:
    assert chosen(RoutingParameters(), states=with_health("medium", Health.BREAKER_OPEN)) == (
        "small",
        Reason.TIER_UNAVAILABLE,
    )
    assert chosen(RoutingParameters(), states=with_health("medium", Health.SATURATED)) == (
        "small",
        Reason.TIER_UNAVAILABLE,
    )


def test_more_expensive_variant_is_chosen_only_without_a_cheaper_one() -> None:
    states = with_health("small", Health.BREAKER_OPEN)
    assert chosen(RoutingParameters(tier=Tier.ECONOMY), states=states) == ("medium", Reason.TIER_UNAVAILABLE)


def test_tried_variant_is_not_tried_again() -> None:
    assert chosen(RoutingParameters(), tried=("medium",)) == ("small", Reason.FALLBACK)


def test_late_response_can_be_rejected() -> None:
    with pytest.raises(UnavailableError, match="within 1 ms, the fastest within 5 ms"):
        chosen(RoutingParameters(on_sla_risk=OnSlaRisk.REFUSE), left=1)


def test_surplus_goes_to_the_fastest_whatever_its_queue() -> None:
    queued = {
        **CALM,
        "small": VariantState(0.7, 400),
        "medium": VariantState(0.8, 300),
        "large": VariantState(0.9, 200),
    }
    assert chosen(RoutingParameters(tier=Tier.PREMIUM), left=100, states=queued) == ("small", Reason.SLA_AT_RISK)


@pytest.mark.parametrize(("time_share", "name"), [(1.0, "large"), (0.3, "medium"), (0.1, "small")])
def test_better_variants_may_take_only_their_share_of_the_time(time_share: float, name: str) -> None:
    decision = decide(ROUTE, RoutingParameters(), CALM, tier=Tier.PREMIUM, time_left_ms=40, time_share=time_share)
    assert decision.variant.name == name


def test_limits_that_no_variant_meets_are_an_error_with_the_numbers() -> None:
    with pytest.raises(LimitError, match=r"large \(quality 0.900, cost 4: above_max_cost\)"):
        chosen(RoutingParameters(min_quality=0.85, max_cost=2))


def test_no_variant_in_service_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match=r"small \(already_tried\), medium \(already_tried\)"):
        chosen(RoutingParameters(), tried=("small", "medium", "large"))


def test_a_variant_of_another_output_space_is_never_a_fallback() -> None:
    route = Route(
        task="embed",
        default_tier=Tier.PREMIUM,
        variants=(
            Variant("small", Tier.ECONOMY, 1, 2, output_space="a"),
            Variant("medium", Tier.STANDARD, 2, 4, output_space="b"),
            Variant("large", Tier.PREMIUM, 4, 8, output_space="b"),
        ),
    )
    decision = decide(route, RoutingParameters(), CALM, tier=Tier.PREMIUM, time_left_ms=1)
    assert decision.variant.name == "medium"
    assert decision.candidates[0].status is CandidateStatus.OTHER_OUTPUT_SPACE
    with pytest.raises(UnavailableError):
        decide(route, RoutingParameters(), CALM, tier=Tier.ECONOMY, time_left_ms=1000, tried=("small",))


_states = st.fixed_dictionaries(
    {
        variant.name: st.builds(
            VariantState,
            st.floats(0, 1),
            st.floats(0.1, 1000),
            st.sampled_from([Health.READY, Health.READY, Health.BREAKER_OPEN, Health.SATURATED]),
        )
        for variant in ROUTE.variants
    }
)
_parameters = st.builds(
    RoutingParameters,
    tier=st.sampled_from([None, AUTO, *Tier]),
    min_quality=st.none() | st.floats(0, 1),
    max_cost=st.none() | st.floats(0, 5),
    on_sla_risk=st.sampled_from(OnSlaRisk),
)
_tried = st.lists(st.sampled_from([variant.name for variant in ROUTE.variants]), max_size=2, unique=True)


def _decide(
    parameters: RoutingParameters, states: dict[str, VariantState], left: float, tried: list[str]
) -> Decision | None:
    try:
        return decide(ROUTE, parameters, states, tier=requested_tier(ROUTE, parameters), time_left_ms=left, tried=tried)
    except (LimitError, UnavailableError):
        return None


@given(_parameters, _states, st.floats(0, 2000), _tried)
def test_hard_limits_are_always_met(
    parameters: RoutingParameters, states: dict[str, VariantState], left: float, tried: list[str]
) -> None:
    decision = _decide(parameters, states, left, tried)
    if decision is None:
        return
    state = states[decision.variant.name]
    assert state.health is Health.READY
    assert decision.variant.name not in tried
    assert parameters.min_quality is None or state.quality >= parameters.min_quality
    assert parameters.max_cost is None or decision.variant.cost_per_1000 <= parameters.max_cost
    assert parameters.on_sla_risk is OnSlaRisk.SERVE or state.predicted_p95_ms <= left


@given(_parameters, _states, st.floats(0, 2000), _tried)
def test_a_variant_within_the_limits_is_always_found(
    parameters: RoutingParameters, states: dict[str, VariantState], left: float, tried: list[str]
) -> None:
    usable = [
        variant
        for variant in ROUTE.variants
        if states[variant.name].health is Health.READY
        and variant.name not in tried
        and (parameters.min_quality is None or states[variant.name].quality >= parameters.min_quality)
        and (parameters.max_cost is None or variant.cost_per_1000 <= parameters.max_cost)
    ]
    if parameters.on_sla_risk is OnSlaRisk.SERVE:
        assert (_decide(parameters, states, left, tried) is None) == (not usable)


@given(_parameters, _states, st.floats(0, 2000), st.floats(0, 2000), _tried)
def test_more_time_never_chooses_a_worse_variant(
    parameters: RoutingParameters, states: dict[str, VariantState], one: float, other: float, tried: list[str]
) -> None:
    less, more = (_decide(parameters, states, left, tried) for left in sorted((one, other)))
    # A late request goes to the fastest variant, which in an unusual route may be the best.
    if less is None or less.reason is Reason.SLA_AT_RISK:
        return
    assert more is not None

    def worth(decision: Decision) -> tuple[int, float]:
        tier = 0 if requested_tier(ROUTE, parameters) is None else decision.variant.tier.rank
        return tier, states[decision.variant.name].quality

    assert worth(more) >= worth(less)


@given(_parameters, _states, st.floats(0, 2000), _tried)
def test_equal_states_give_equal_decisions(
    parameters: RoutingParameters, states: dict[str, VariantState], left: float, tried: list[str]
) -> None:
    assert _decide(parameters, states, left, tried) == _decide(parameters, states, left, tried)


@given(_parameters, _states, st.floats(0, 2000), _tried)
def test_every_variant_gets_a_status_and_one_is_chosen(
    parameters: RoutingParameters, states: dict[str, VariantState], left: float, tried: list[str]
) -> None:
    decision = _decide(parameters, states, left, tried)
    if decision is not None:
        statuses = {found.variant.name: found.status for found in decision.candidates}
        assert statuses.keys() == states.keys()
        assert [name for name, status in statuses.items() if status is CandidateStatus.CHOSEN] == [
            decision.variant.name
        ]
