from __future__ import annotations

import json
from typing import Any

import pytest
from trireme_backends.routing.errors import ParameterError
from trireme_backends.routing.parameters import OnSlaRisk, RoutingParameters, parse_parameters, read_parameters
from trireme_backends.routing.route import Tier


def test_own_parameters_are_removed_and_others_passed_on_with_their_types() -> None:
    parameters, others, _ = read_parameters(json.dumps({"tier": "premium", "lang": "de", "k": 7, "flag": True}))
    assert parameters == RoutingParameters(tier=Tier.PREMIUM)
    assert json.loads(others) == {"lang": "de", "k": 7, "flag": True}


@pytest.mark.parametrize("text", ["", "{}"])
def test_no_parameters_give_the_defaults(text: str) -> None:
    assert read_parameters(text) == (RoutingParameters(), "", "")


def test_request_id_of_a_header_is_removed_so_that_requests_can_be_merged() -> None:
    assert read_parameters('{"x-request-id": "r-1"}') == (RoutingParameters(), "", "r-1")


def test_equal_parameters_in_another_order_are_passed_on_equally() -> None:
    assert read_parameters('{"a": 1, "b": 2}')[1] == read_parameters('{"b": 2, "a": 1}')[1]


def test_numbers_may_be_text() -> None:
    parameters = parse_parameters({"max_latency_ms": "50", "min_quality": "0.85", "max_cost": 2, "explain": "true"})
    assert parameters == RoutingParameters(max_latency_ms=50, min_quality=0.85, max_cost=2, explain=True)


def test_rejection_can_be_requested() -> None:
    assert parse_parameters({"on_sla_risk": "refuse"}).on_sla_risk is OnSlaRisk.REFUSE


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("tier", "gold", "economy, standard, premium, auto"),
        ("tier", 1, "economy, standard, premium, auto"),
        ("max_latency_ms", 0, "a number from 1 to 600000"),
        ("max_latency_ms", -5, "a number from 1 to 600000"),
        ("max_latency_ms", "soon", "a number from 1 to 600000"),
        ("max_latency_ms", True, "a number from 1 to 600000"),
        ("max_latency_ms", "nan", "a number from 1 to 600000"),
        ("min_quality", "1.1", "a number from 0 to 1"),
        ("max_cost", "-1", "a number of at least 0"),
        ("max_cost", "inf", "a number of at least 0"),
        ("sticky_key", "", "a string of 1 to 256 characters"),
        ("sticky_key", 5, "a string of 1 to 256 characters"),
        ("sticky_key", "x" * 257, "a string of 1 to 256 characters"),
        ("explain", "yes", "true, false"),
        ("decide_only", 2, "true, false"),
        ("on_sla_risk", "panic", "serve, refuse"),
    ],
)
def test_invalid_value_is_rejected_with_parameter_value_and_allowed_values(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(ParameterError) as caught:
        parse_parameters({name: value})
    assert str(caught.value) == f"parameter {name} is {value!r}; allowed: {allowed}"


def test_unknown_name_is_rejected_if_only_own_parameters_are_allowed() -> None:
    with pytest.raises(ParameterError, match="parameter colour"):
        parse_parameters({"colour": "red"})
