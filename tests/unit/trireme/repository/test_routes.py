"""Routes on disk: ``trireme route check``, and ``trireme route explain`` without a server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from trireme.commands.route import route as route_command
from trireme.errors import ConfigError, NotFoundError, TriremeError
from trireme.repository.folders import ModelRepository
from trireme.repository.route_explanation import explain_offline
from trireme.repository.routes import RouteFolder, check_route, find_route

VARIANTS = {"small": "economy", "medium": "standard", "large": "premium"}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Three variants and the route ``echo`` over them."""
    for cost, (name, tier) in enumerate(VARIANTS.items(), start=1):
        _write(
            tmp_path / name / "config.pbtxt",
            f'platform: "ensemble" output {{ name: "PROBABILITIES" data_type: TYPE_FP32 dims: [ 2 ] }}'
            f' ensemble_scheduling {{ step [ {{ model_name: "{name}_encoder" model_version: {cost} }} ] }}'
            f' parameters {{ key: "tier" value {{ string_value: "{tier}" }} }}',
        )
        manifest = {"accuracy": {"accuracy": 0.6 + cost / 10}}
        _write(tmp_path / f"{name}_encoder" / str(cost) / "manifest.json", json.dumps(manifest))
    _write(tmp_path / "echo" / "config.pbtxt", 'backend: "router"')
    write_rules(tmp_path)
    return tmp_path


def write_rules(repository: Path, **changes: Any) -> None:
    rules = {
        "task": "echo",
        "default_tier": "standard",
        "variants": [
            {"name": name, "tier": tier, "cost_per_1000": cost, "expected_latency_ms": cost * 10}
            for cost, (name, tier) in enumerate(VARIANTS.items(), start=1)
        ],
    }
    _write(repository / "echo" / "1" / "route.json", json.dumps({**rules, **changes}))


def echo_route(repository: Path) -> RouteFolder:
    return find_route(ModelRepository(repository), "echo")


def test_valid_route_has_no_problems(repository: Path) -> None:
    _write(repository / "large__canary" / "config.pbtxt", "")
    _write(repository / "echo" / "traffic.json", '{"canary_percent": {"large": 5, "small": 0}}')
    assert check_route(echo_route(repository)) == []


def test_unknown_task_lists_the_existing_ones(repository: Path) -> None:
    with pytest.raises(NotFoundError, match="no task named 'ech'; available: echo"):
        find_route(ModelRepository(repository), "ech")


def test_route_without_a_version_is_rejected(repository: Path) -> None:
    (repository / "echo" / "1" / "route.json").unlink()
    (repository / "echo" / "1").rmdir()
    with pytest.raises(ConfigError, match="has no version"):
        echo_route(repository).route()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"colour": "red"}, "colour: unknown key"),
        ({"variants": [{"name": "huge", "tier": "economy"}]}, "variants[0].cost_per_1000: is missing"),
        (
            {
                "variants": [
                    {"name": name, "tier": tier, "cost_per_1000": 1, "expected_latency_ms": 1}
                    for name, tier in [("small", "economy"), ("huge", "standard"), ("large", "premium")]
                ]
            },
            "variants[1].name: model 'huge' is not in",
        ),
        (
            {
                "variants": [
                    {"name": name, "tier": tier, "cost_per_1000": 1, "expected_latency_ms": 1}
                    for name, tier in [("medium", "economy"), ("small", "standard"), ("large", "premium")]
                ]
            },
            "variants[0].tier: is 'economy', but medium has 'standard'; change one of them",
        ),
        (
            {
                "cascade": {
                    "first_tier": "economy",
                    "second_tier": "premium",
                    "confidence_output": "SCORES",
                    "temperature": 1,
                    "threshold": 0.9,
                }
            },
            "cascade.confidence_output: small has no output 'SCORES'; available: PROBABILITIES",
        ),
    ],
)
def test_invalid_rules_are_reported_with_file_and_key(repository: Path, changes: dict[str, Any], problem: str) -> None:
    write_rules(repository, **changes)
    problems = check_route(echo_route(repository))
    assert problem in problems[0]
    assert problems[0].startswith(str(repository / "echo" / "1" / "route.json"))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        (
            '{"canary_percent": {"huge": 5}}',
            "canary_percent.huge: not a variant of the route; available: small, medium, large",
        ),
        ('{"canary_percent": {"large": 5}}', "canary_percent.large: model 'large__canary' does not exist"),
    ],
)
def test_invalid_traffic_is_reported_with_file_and_key(repository: Path, text: str, problem: str) -> None:
    _write(repository / "echo" / "traffic.json", text)
    (only,) = check_route(echo_route(repository))
    assert only.startswith(str(repository / "echo" / "traffic.json"))
    assert problem in only


def test_explanation_without_a_server_uses_rules_pins_and_manifests(repository: Path) -> None:
    explanation = explain_offline(echo_route(repository), {"tier": "premium", "max_latency_ms": "25"})
    assert (explanation.live, explanation.variant, explanation.version, explanation.reason["reason"]) == (
        False,
        "medium",
        "2",
        "moved_down",
    )
    assert {
        one["variant"]: (one["verdict"], one["quality"], one["predicted_p95_ms"]) for one in explanation.considered
    } == {
        "small": ("less_preferred", 0.7, 10.0),
        "medium": ("chosen", 0.8, 20.0),
        "large": ("too_slow", 0.9, 30.0),
    }


def test_explanation_follows_a_sticky_key_to_the_canary(repository: Path) -> None:
    _write(repository / "echo" / "traffic.json", '{"canary_percent": {"medium": 50}}')
    sides = {explain_offline(echo_route(repository), {"sticky_key": key}).variant for key in "abcdefghij"}
    assert sides == {"medium", "medium__canary"}


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"tier": "gold"}, "parameter tier is 'gold'"),
        ({"colour": "red"}, "parameter colour"),
        ({"min_quality": "1"}, "meets the limits"),
    ],
)
def test_explanation_rejects_invalid_parameters(
    repository: Path, parameters: dict[str, str | int | float | bool], message: str
) -> None:
    with pytest.raises(TriremeError, match=message):
        explain_offline(echo_route(repository), parameters)


def test_command_prints_the_decision_and_its_numbers(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIREME_REPOSITORY_DIR", str(repository))
    monkeypatch.setenv("TRIREME_STATE_DIR", str(repository / ".state"))
    result = CliRunner().invoke(route_command, ["explain", "--task", "echo", "--param", "tier=premium"])
    assert result.exit_code == 0
    assert result.output.startswith("echo: large, version 3, because: requested_tier\n")
    as_json = CliRunner().invoke(route_command, ["explain", "--task", "echo", "--json"])
    assert json.loads(as_json.output)["variant"] == "medium"


def test_command_rejects_a_parameter_without_a_value(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIREME_REPOSITORY_DIR", str(repository))
    result = CliRunner().invoke(route_command, ["explain", "--task", "echo", "--param", "tier"])
    assert result.exit_code == 2
    assert "NAME=VALUE" in result.output


def test_check_fails_on_an_invalid_route(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIREME_REPOSITORY_DIR", str(repository))
    assert CliRunner().invoke(route_command, ["check"], standalone_mode=False).return_value == 0
    write_rules(repository, colour="red")
    result = CliRunner().invoke(route_command, ["check", "--json"], standalone_mode=False)
    assert result.return_value == 1
    assert "unknown key" in json.loads(result.output)["problems"]["echo"][0]


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
