from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trireme_backends.errors import FileError
from trireme_backends.routing.route import Cascade, Limits, Tier, check_variants, load_route

Write = Callable[[Any], Path]
CASCADE = {
    "first_tier": "economy",
    "second_tier": "premium",
    "confidence_output": "PROBABILITIES",
    "temperature": 1.5,
    "threshold": 0.9,
}


def test_route_is_read_with_defaults(rules: dict[str, Any], write_route: Write) -> None:
    rules["variants"][0]["limits"] = {"timeout_ms": 500}
    rules["cascade"] = CASCADE
    route = load_route(write_route(rules))
    assert route.default_tier is Tier.STANDARD
    assert route.variants[0].limits == Limits(timeout_ms=500)
    assert route.variants[2].limits == Limits()
    assert route.cascade == Cascade(Tier.ECONOMY, Tier.PREMIUM, "PROBABILITIES", 1.5, 0.9)


def test_auto_is_a_default_tier(rules: dict[str, Any], write_route: Write) -> None:
    rules["default_tier"] = "auto"
    assert load_route(write_route(rules)).default_tier is None


def _set(*path: str | int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(rules: Any) -> None:
        *parents, last = path
        for key in parents:
            rules = rules[key]
        rules[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "key", "problem"),
    [
        (_set("colour", value=1), "colour", "unknown key; known: task, default_tier"),
        (_set("variants", 1, "speed", value=1), "variants[1].speed", "unknown key"),
        (_set("variants", 1, "limits", value={"rows": 1}), "variants[1].limits.rows", "unknown key"),
        (_set("variants", 0, "cost_per_1000", value=-1), "variants[0].cost_per_1000", "is -1"),
        (_set("variants", 0, "cost_per_1000", value="1"), "variants[0].cost_per_1000", "is '1'"),
        (_set("variants", 0, "cost_per_1000", value=True), "variants[0].cost_per_1000", "is True"),
        (_set("variants", 0, "quality", value=1.5), "variants[0].quality", "from 0 to 1"),
        (_set("variants", 0, "expected_latency_ms", value=0), "variants[0].expected_latency_ms", "is 0"),
        (_set("variants", 0, "tier", value="gold"), "variants[0].tier", "economy, standard, premium"),
        (_set("variants", 0, "tier", value="premium"), "variants", "no variant has the tier 'economy'"),
        (_set("variants", 1, "name", value="small"), "variants[1].name", "is a duplicate"),
        (_set("variants", 1, "name", value="../x"), "variants[1].name", "name of a model"),
        (_set("variants", 1, "name", value="large__canary"), "variants[1].name", "not of a canary"),
        (_set("variants", 1, "limits", value={"max_calls_in_flight": 0}), "variants[1].limits.max_calls", "at least 1"),
        (_set("variants", value=[]), "variants", "a non-empty list"),
        (_set("variants", value=[3]), "variants[0]", "JSON object"),
        (_set("default_tier", value="gold"), "default_tier", "premium, auto"),
        (_set("deadline_ms", value=0), "deadline_ms", "at least 1"),
        (_set("task", value=""), "task", "a non-empty string"),
        (_set("cascade", value={**CASCADE, "threshold": 2}), "cascade.threshold", "from 0 to 1"),
        (_set("cascade", value={**CASCADE, "first_tier": "premium"}), "cascade.second_tier", "above first_tier"),
        (_set("cascade", value={"first_tier": "economy"}), "cascade.second_tier", "is missing"),
    ],
)
def test_invalid_rules_are_rejected_with_file_and_key(
    rules: dict[str, Any], write_route: Write, change: Callable[[Any], None], key: str, problem: str
) -> None:
    change(rules)
    path = write_route(rules)
    with pytest.raises(FileError) as caught:
        load_route(path)
    assert str(caught.value).startswith(f"{path}: {key}")
    assert problem in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"task": "x"}'])
def test_a_file_that_is_not_a_route_is_rejected(write_route: Write, text: str) -> None:
    with pytest.raises(FileError, match=r"route\.json"):
        load_route(write_route(text))


def test_missing_file_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="cannot be read"):
        load_route(tmp_path / "route.json")


def test_variant_that_is_not_a_model_is_rejected_with_file_and_key(
    rules: dict[str, Any], write_route: Write, tmp_path: Path
) -> None:
    path = write_route(rules)
    for name in ("small", "large"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.pbtxt").touch()
    with pytest.raises(FileError, match=r"route\.json: variants\[1\]\.name: model 'medium' is not in "):
        check_variants(load_route(path), path, tmp_path)
