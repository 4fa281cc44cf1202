"""Responses to callers of the router on the real server."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from trireme.repository.folders import ModelRepository
from trireme.repository.route_explanation import explain_live
from trireme.repository.routes import find_route
from trireme_client import ClientError
from tritonclient.utils import InferenceServerException

from tests.deadlines import scaled

if TYPE_CHECKING:
    from conftest import Echo

PARAMETERS = {"lang": "de", "k": 7, "flag": True}


@pytest.mark.parametrize(
    ("requested", "variant"),
    [({}, "medium"), ({"tier": "economy"}, "small"), ({"tier": "premium"}, "large"), ({"tier": "auto"}, "large")],
)
def test_tier_picks_the_variant_and_the_response_names_it(echo: Echo, requested: dict[str, Any], variant: str) -> None:
    routed = echo.send("hello", "world", **requested)
    assert routed.answers == [f"{variant}:hello", f"{variant}:world"]
    assert routed.variants == [variant] * 2
    assert routed.versions == ["1"] * 2
    assert routed.reason["reason"] in ("requested_tier", "best_in_time")


def test_parameters_and_a_given_optional_input_reach_the_variant_unchanged(echo: Echo) -> None:
    direct = echo.send("x", hint="please", model="medium", **PARAMETERS).seen[0]
    assert direct == {"parameters": PARAMETERS, "hint": "please", "rows": 1, "version": "1"}
    assert echo.send("x", hint="please", tier="standard", **PARAMETERS).seen[0] == direct


def test_absent_optional_input_stays_absent(echo: Echo) -> None:
    direct = echo.send("x", model="medium").seen[0]
    assert direct == {"parameters": {}, "hint": None, "rows": 1, "version": "1"}
    assert echo.send("x").seen[0] == direct


def test_reserved_parameter_is_rejected(echo: Echo) -> None:
    with pytest.raises(InferenceServerException, match="reserved"):
        echo.send("x", triton_x="de")


@pytest.mark.parametrize(
    ("requested", "sentence"),
    [
        ({"tier": "gold"}, "parameter tier is 'gold'; allowed: economy, standard, premium, auto"),
        ({"max_latency_ms": -1}, "parameter max_latency_ms is -1; allowed: a number from 1 to 600000"),
        ({"min_quality": "0.99"}, "no variant of echo meets the limits of the request"),
    ],
)
def test_invalid_parameters_are_rejected_with_the_allowed_values(
    echo: Echo, requested: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        echo.send("x", **requested)
    assert sentence in caught.value.message()
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_decide_only_names_the_variant_and_calls_none(echo: Echo) -> None:
    echo.repository.behave("large", raises=True)
    routed = echo.send("x", tier="premium", decide_only=True, explain=True)
    assert routed.variants == ["large"]
    assert routed.answers == []
    assert {one["variant"]: one["verdict"] for one in routed.reason["considered"]} == {
        "small": "less_preferred",
        "medium": "less_preferred",
        "large": "chosen",
    }


def test_parameters_work_over_http(echo: Echo) -> None:
    body = {
        "inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["hello"]}],
        "parameters": {"tier": "premium", "max_latency_ms": 5000},
    }
    request = urllib.request.Request(
        f"http://{echo.server.http_address}/v2/models/echo/infer", json.dumps(body).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=scaled(30)) as response:
        outputs = {output["name"]: output["data"] for output in json.load(response)["outputs"]}
    assert outputs["ANSWER"] == ["large:hello"]
    assert outputs["VARIANT"] == ["large"]


def test_an_invalid_request_fails_alone_in_a_merged_call(echo: Echo) -> None:
    echo.repository.behave("medium", seconds=0.05)
    texts = [f"text {number}" for number in range(24)]
    texts[7] = "poison"
    results = _all_at_once([lambda text=text: echo.send(text) for text in texts])  # type: ignore[misc]
    for text, result in zip(texts, results, strict=True):
        if text == "poison":
            assert isinstance(result, InferenceServerException)
            assert "cannot read poison" in result.message()
        else:
            assert not isinstance(result, BaseException), result
            assert result.answers == [f"{result.variant}:{text}"]


def test_many_callers_with_mixed_parameters_get_the_outputs_of_the_named_variant(echo: Echo) -> None:
    def caller(number: int) -> int:
        for turn in range(15):
            texts = [f"{number}/{turn}/{row}" for row in range(1 + turn % 3)]
            requested: dict[str, Any] = {"user": number % 3}
            if turn % 4:
                requested["tier"] = ["economy", "standard", "premium"][(number + turn) % 3]
            if turn % 2:
                requested["max_latency_ms"] = 20_000
            routed = echo.send(*texts, **requested)
            assert routed.answers == [f"{routed.variant}:{text}" for text in texts]
            assert {seen["parameters"]["user"] for seen in routed.seen} == {number % 3}
            if "tier" in requested and routed.reason["reason"] == "requested_tier":
                assert routed.reason["tier"] == requested["tier"]
        return number

    results = _all_at_once([lambda number=number: caller(number) for number in range(64)])  # type: ignore[misc]
    assert results == list(range(64))


def test_calls_do_not_deadlock_with_all_instances_busy(echo: Echo) -> None:
    for name in ("small", "medium", "large"):
        echo.repository.behave(name, seconds=0.02)
    tiers = ["economy", "standard", "premium"]
    results = _all_at_once([lambda n=n: echo.send(str(n), tier=tiers[n % 3]) for n in range(240)])  # type: ignore[misc]
    for number, result in enumerate(results):
        assert not isinstance(result, BaseException), result
        assert result.answers == [f"{result.variant}:{number}"]


def test_new_pin_is_named_at_once(echo: Echo) -> None:
    echo.repository.write_worker("medium", 1, 2)
    echo.client.load_model("medium_worker")
    assert echo.send("x").versions == ["1"]
    try:
        echo.repository.pin("medium", 2)
        echo.client.load_model("medium")
        routed = echo.send("x")
        assert routed.versions == ["2"]
        assert routed.seen[0]["version"] == "2"
    finally:
        echo.repository.pin("medium", 1)
        echo.client.load_model("medium")


def test_the_version_of_a_variant_of_two_steps_is_that_of_its_version_step(echo: Echo) -> None:
    echo.repository.write_worker("bert", 1, 2)
    echo.repository.write_worker("medium_decoder", 1)
    echo.repository.chain("medium__canary", "bert", 2, "medium_decoder")
    for name in ("bert_worker", "medium_decoder_worker", "medium__canary"):
        echo.client.load_model(name)
    try:
        echo.repository.set_traffic('{"canary_percent": {"medium": 100}}')
        routed = echo.send("x")
        assert routed.answers == ["medium_decoder:bert:x"]
        assert routed.seen[0]["version"] == "2"
        assert routed.versions == ["2"]
    finally:
        echo.client.unload_model("medium__canary")


def test_canary_traffic_applies_from_the_next_request_on(echo: Echo) -> None:
    echo.repository.pin("medium__canary", 1, worker="large_worker")
    echo.client.load_model("medium__canary")
    try:
        echo.repository.set_traffic('{"canary_percent": {"medium": 100}}')
        routed = echo.send("x")
        assert routed.variants == ["medium__canary"]
        assert routed.answers == ["large:x"]
        assert routed.reason["canary"] is True
        echo.repository.set_traffic("{")
        assert echo.send("x").variants == ["medium__canary"]
        echo.repository.set_traffic('{"canary_percent": {"medium": 50}}')
        sides = {key: echo.send("x", sticky_key=key).variants[0] for key in "abcdefghijklmnop"}
        assert set(sides.values()) == {"medium", "medium__canary"}
        assert {key: echo.send("x", sticky_key=key).variants[0] for key in sides} == sides
        echo.repository.set_traffic('{"canary_percent": {}}')
        assert echo.send("x").variants == ["medium"]
    finally:
        echo.client.unload_model("medium__canary")
    _eventually(lambda: _metric(echo, "trireme_router_traffic_errors_total") == 1)


def test_metrics_report_requests_latencies_and_predictions(echo: Echo) -> None:
    labels = 'variant="small",version="1"'
    before = _metric(echo, "trireme_router_requests_total", labels)
    for _ in range(5):
        echo.send("x", tier="economy")
    _eventually(lambda: _metric(echo, "trireme_router_requests_total", labels) >= before + 5)
    small = 'task="echo",variant="small"'
    assert _metric(echo, "trireme_router_latency_seconds_count", small) >= 5
    assert _metric(echo, "trireme_router_predictions_kept_total", small) > 0
    assert _metric(echo, "trireme_router_predictions_kept_total", small) <= _metric(
        echo, "trireme_router_predictions_total", small
    )


def test_rows_that_wait_for_a_busy_variant_are_reported(echo: Echo) -> None:
    echo.repository.behave("small", seconds=0.7)
    threads = [threading.Thread(target=echo.send, args=("x",), kwargs={"tier": "economy"}) for _ in range(24)]
    for thread in threads:
        thread.start()
    _eventually(lambda: _metric(echo, "trireme_router_waiting_rows", 'variant="small"') > 0)
    echo.repository.behave("small")
    for thread in threads:
        thread.join(60)
    _eventually(lambda: _metric(echo, "trireme_router_waiting_rows", 'variant="small"') == 0)


def test_cost_is_that_of_the_rows_sent_to_a_variant(echo: Echo) -> None:
    large = 'variant="large"'
    before = _metric(echo, "trireme_router_cost_total", large)
    echo.send("one", "two", tier="premium")
    _eventually(lambda: _metric(echo, "trireme_router_cost_total", large) == pytest.approx(before + 2 * 3 / 1000))


def test_fallback_is_logged_with_the_request_id_of_a_proxy(echo: Echo) -> None:
    echo.repository.behave("medium", raises=True)
    routed = echo.send("x", tier="standard", headers={"x-request-id": "proxy-1"})
    assert routed.reason["reason"] == "fallback"

    def log_lines() -> list[dict[str, str]]:
        lines = echo.server.log_path.read_text().splitlines()
        # Triton writes a message as a string of JSON.
        return [json.loads(json.loads(line.partition("] ")[2])) for line in lines if "proxy-1" in line]

    _eventually(lambda: len(log_lines()) == 1)
    (line,) = log_lines()
    assert {name: line[name] for name in ("request_id", "model", "variant", "version")} == {
        "request_id": "proxy-1",
        "model": "echo",
        "variant": routed.variant,
        "version": "1",
    }


def test_request_id_of_a_header_is_not_passed_to_the_variant(echo: Echo) -> None:
    assert echo.send("x", tier="standard", headers={"x-request-id": "proxy-2"}).seen[0]["parameters"] == {}


def _metric(echo: Echo, name: str, labels: str = "") -> float:
    """Sum of a metric's samples whose labels contain ``labels``."""
    with urllib.request.urlopen(f"http://{echo.server.metrics_address}/metrics", timeout=scaled(30)) as response:
        lines = response.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name + "{") and labels in line)


def _eventually(condition: Callable[[], bool]) -> None:
    waited = threading.Event()
    for _ in range(300):
        if condition():
            return
        waited.wait(0.1)
    raise AssertionError("it did not happen within 30 s")


def _all_at_once(tasks: list[Callable[[], Any]]) -> list[Any]:
    """Run every task in its own thread; returns results or exceptions in order."""
    results: list[Any] = [None] * len(tasks)

    def run(index: int) -> None:
        try:
            results[index] = tasks[index]()
        except BaseException as error:
            results[index] = error

    threads = [threading.Thread(target=run, args=(index,)) for index in range(len(tasks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "callers hang"
    return results


def test_explanation_of_a_running_router_has_live_numbers(echo: Echo) -> None:
    for _ in range(20):
        echo.send("x", tier="premium")
    found = find_route(ModelRepository(echo.repository.path), "echo")
    explanation = explain_live(found, {"tier": "premium", "max_latency_ms": "5000"}, echo.server.grpc_address)
    assert (explanation.live, explanation.variant, explanation.version) == (True, "large", "1")
    (large,) = [one for one in explanation.considered if one["variant"] == "large"]
    assert large["verdict"] == "chosen"
    # An observed value, not the 5 ms times 1.5 of the rules alone.
    assert large["predicted_p95_ms"] != 7.5
    assert explanation.reason["time_left_ms"] <= 5000
    with pytest.raises(ClientError, match="parameter tier is 'gold'"):
        explain_live(found, {"tier": "gold"}, echo.server.grpc_address)
