"""Routes whose callers stream from the variant: decisions by what callers report."""

from __future__ import annotations

import json

import pytest
from trireme_backends.errors import FileError
from trireme_backends.routing.errors import Fault, ParameterError, UnavailableError
from trireme_backends.routing.parameters import StreamParameters, StreamReport, read_stream_parameters
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.route import load_route
from trireme_backends.routing.streams import StreamRequest, StreamRouter
from trireme_backends.routing.traffic import TrafficFile

from tests.unit.trireme_backends.routing.observers import Silent

ROUTE = {
    "task": "text_generation",
    "default_tier": "premium",
    "streams": True,
    "variants": [
        {"name": "small", "tier": "economy", "cost_per_1000": 1, "expected_latency_ms": 20, "expected_ms_per_token": 5},
        {"name": "large", "tier": "premium", "cost_per_1000": 9, "expected_latency_ms": 80, "expected_ms_per_token": 30,
         "prefill_ms_per_1000_characters": 200, "limits": {"max_streams": 8}},
    ],
}  # fmt: skip


class Route:
    """A route that receives requests and reports; time passes only when ``now`` is moved."""

    def __init__(self, directory):
        path = directory / "route.json"
        path.write_text(json.dumps(ROUTE))
        self.traffic_path = directory / "traffic.json"
        self.now = 0.0
        self.streams = StreamRouter(
            load_route(path), pins=Pins(directory), traffic=TrafficFile(self.traffic_path), observer=Silent(),
            clock=lambda: self.now, is_loaded=lambda name: name not in self.unloaded,
        )  # fmt: skip
        self.unloaded = set()
        self.count = 0

    def ask(self, *, characters=0, deadline_s=60.0, request_id=None, **parameters):
        self.count += 1
        self.last_id = str(self.count) if request_id is None else request_id
        read, _ = read_stream_parameters(json.dumps(parameters))
        return self.streams.route(StreamRequest(read, characters, self.last_id, self.now + deadline_s))

    def report(self, variant, request_id=None, **measured):
        parameters = StreamParameters(report=StreamReport(variant, **measured))
        request = StreamRequest(parameters, 0, request_id or self.last_id, self.now + 60)
        assert self.streams.route(request) is None


@pytest.fixture
def route(tmp_path):
    return Route(tmp_path)


def test_the_tier_names_the_variant(route):
    assert route.ask().variant == "large"
    assert route.ask(tier="economy").variant == "small"
    assert route.ask(tier="standard").variant == "small"


@pytest.mark.parametrize(("tensor", "stream_from"), [("text", {"model": "engine", "version": "3"}), ("renamed", None)])
def test_the_response_names_the_engine_to_stream_from(route, tensor, stream_from):
    config = route.traffic_path.with_name("large") / "config.pbtxt"
    config.parent.mkdir()
    step = f'model_name: "engine" model_version: 3 input_map {{ key: "text" value: "{tensor}" }}'
    config.write_text(f"ensemble_scheduling {{ step [ {{ {step} }} ] }}")
    named = route.ask()
    assert (named.variant, named.version) == ("large", "3")
    assert json.loads(named.reason_json).get("stream_from") == stream_from


def test_a_limit_on_the_first_token_moves_to_the_faster_variant(route):
    named = route.ask(max_ttft_ms=60)
    assert (named.variant, named.reason.value) == ("small", "moved_down")


def test_a_limit_on_the_time_per_token_moves_to_the_faster_variant(route):
    assert route.ask(max_ms_per_token=20).variant == "small"
    assert route.ask(max_ms_per_token=100).variant == "large"


def test_a_long_prompt_costs_time_to_the_first_token(route):
    assert route.ask(max_ttft_ms=300).variant == "large"
    assert route.ask(max_ttft_ms=300, characters=6000).variant == "small"


def test_running_streams_raise_the_prediction_at_once(route):
    before = json.loads(route.ask().reason_json)["predicted_ttft_p95_ms"]
    after = json.loads(route.ask().reason_json)["predicted_ttft_p95_ms"]
    assert after > before


def test_an_engine_that_is_full_gets_no_more_streams_until_one_ends(route):
    named = [route.ask(request_id=str(number)).variant for number in range(9)]
    assert named == ["large"] * 8 + ["small"]
    route.report("large", request_id="0", ttft_ms=80)
    assert route.ask().variant == "large"


def test_a_stream_whose_caller_died_is_forgotten_at_its_deadline(route):
    for number in range(8):
        route.ask(request_id=str(number), deadline_s=0.05)
    assert route.ask().variant == "small"
    route.now += 0.06
    assert route.ask().variant == "large"


def test_reports_teach_how_slow_a_variant_is(route):
    for _ in range(30):
        route.ask()
        route.report("large", ttft_ms=900.0, ms_per_token=30.0)
    assert route.ask(max_ttft_ms=500).variant == "small"


def test_a_failed_variant_is_not_named_again_for_the_same_request(route):
    named = route.ask(tried="large:error")
    assert named.variant == "small"
    reason = json.loads(named.reason_json)
    assert (reason["reason"], reason["tried"]) == ("fallback", [{"variant": "large", "fault": "error"}])
    with pytest.raises(UnavailableError, match="already_tried"):
        route.ask(tried="large:error,small:error")


def test_one_report_is_enough_for_a_variant_that_is_not_loaded(route):
    route.ask(tried="large:not_ready")
    assert route.ask().variant == "small"


def test_a_variant_that_lacks_a_feature_is_healthy(route):
    for _ in range(20):
        assert route.ask(tried="large:unsupported").variant == "small"
    assert route.ask().variant == "large"


def test_a_variant_with_an_open_breaker_gets_one_stream_as_a_probe(route):
    route.ask(tried="large:not_ready")
    route.now += 0.55
    assert route.ask(request_id="probe").variant == "large"
    assert route.ask().variant == "small"
    route.report("large", request_id="probe", ttft_ms=80.0)
    assert route.ask().variant == "large"


def test_a_probe_that_is_never_reported_has_failed(route):
    route.ask(tried="large:not_ready")
    route.now += 0.55
    assert route.ask(request_id="probe", deadline_s=0.01).variant == "large"
    route.now += 0.02
    assert route.ask().variant == "small"
    route.now += 1.1
    assert route.ask().variant == "large"


def test_one_failure_does_not_open_the_breaker(route):
    route.ask(tried="large:error")
    assert route.ask().variant == "large"


def test_a_canary_gets_its_share_and_falls_back_to_its_variant(route):
    route.traffic_path.write_text(json.dumps({"canary_percent": {"large": 100}}))
    assert route.ask().variant == "large__canary"
    route.ask(tried="large__canary:not_ready")
    assert route.ask().variant == "large"


def test_the_only_variant_left_is_waited_for(route):
    assert "leave_after_ms" in json.loads(route.ask().reason_json)
    assert "leave_after_ms" not in json.loads(route.ask(tried="large:error").reason_json)


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_ttft_ms": 0}, {"max_ms_per_token": "fast"}, {"tried": "large:bored"}, {"report": "{}"}, {"report": "7"},
        {"max_latency_ms": 50}, {"temperature": 1}, {"tier": "gold"},
        {"report": json.dumps({"variant": "large", "fault": "bored"})},
    ],
)  # fmt: skip
def test_invalid_parameters_are_rejected_by_name(parameters):
    with pytest.raises(ParameterError, match=next(iter(parameters))):
        read_stream_parameters(json.dumps(parameters))


def test_a_report_is_read():
    parameters, request_id = read_stream_parameters(
        json.dumps({"report": json.dumps({"variant": "large", "ttft_ms": 7, "fault": "error"}), "x-request-id": "abc"})
    )
    assert (parameters.report, request_id) == (StreamReport("large", ttft_ms=7.0, fault=Fault.ERROR), "abc")


def test_a_report_of_an_unknown_variant_changes_nothing(route):
    route.report("nobody", request_id="1", ttft_ms=1.0)
    assert route.ask().variant == "large"


def test_a_route_that_streams_has_no_cascade(tmp_path):
    path = tmp_path / "route.json"
    path.write_text(json.dumps(ROUTE | {"cascade": {}}))
    with pytest.raises(FileError, match="cascade"):
        load_route(path)


def test_a_variant_that_is_not_loaded_is_neither_chosen_nor_waited_for(route):
    route.unloaded = {"large"}
    named = route.ask(tier="premium", explain=True)
    reason = json.loads(named.reason_json)
    assert named.variant == "small"
    assert "leave_after_ms" not in reason
    assert {one["variant"]: one["verdict"] for one in reason["considered"]} == {
        "small": "chosen",
        "large": "not_loaded",
    }
    with pytest.raises(UnavailableError, match=r"small \(already_tried\), large \(not_loaded\)"):
        route.ask(tried="small:late")
    route.unloaded.clear()
    assert route.ask(tier="premium").variant == "large"


def test_a_canary_that_is_not_loaded_gets_nothing(route):
    route.traffic_path.write_text('{"canary_percent": {"large": 100}}')
    assert route.ask().variant == "large__canary"
    route.unloaded = {"large__canary"}
    assert route.ask().variant == "large"
