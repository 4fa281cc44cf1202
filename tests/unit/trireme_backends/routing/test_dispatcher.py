"""Fallback, merging, breakers and cascade, with variants that are functions: they misbehave as each test sets."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trireme_backends.errors import BackendError, RequestError
from trireme_backends.routing.breaker import BreakerState
from trireme_backends.routing.dispatcher import Dispatcher
from trireme_backends.routing.errors import CallError, Fault, LimitError, UnavailableError, fault_of
from trireme_backends.routing.parameters import OnSlaRisk, RoutingParameters
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.request import RoutedRequest, RoutedResult, Tensors
from trireme_backends.routing.route import AUTO, Cascade, Limits, Route, Tier, Variant
from trireme_backends.routing.selection import RouteOutputs
from trireme_backends.routing.traffic import TrafficFile

from tests.deadlines import scaled

PATIENCE_SECONDS = scaled(20.0)
LIMITS = Limits(timeout_ms=1000, max_rows_per_call=8, max_calls_in_flight=2, max_abandoned_calls=3)
Behaviour = Callable[[list[str]], None]


class World:
    """Three variants named by tier that return "<variant>:<text>", or act as set in ``behaviour``."""

    def __init__(
        self, folder: Path, cascade: Cascade | None = None, *, medium_timeout_ms: float = LIMITS.timeout_ms
    ) -> None:
        self.behaviour: dict[str, Behaviour] = {}
        self.calls: list[tuple[str, int]] = []
        # Variants that return NaN for the text "nan", and variants that return an additional class.
        self.not_finite: set[str] = set()
        self.wider: set[str] = set()
        self.running: Counter[str] = Counter()
        self.most_running: Counter[str] = Counter()
        self.parameters: list[str] = []
        self.breakers: list[tuple[str, BreakerState]] = []
        self.traffic_errors = 0
        self.predictions: list[bool] = []
        self._lock = threading.Lock()
        self.traffic_path = folder / "traffic.json"
        route = Route(
            task="echo",
            default_tier=Tier.STANDARD,
            variants=tuple(
                Variant(name, tier, cost, latency, quality, limits=replace(LIMITS, timeout_ms=timeout_ms))
                for name, tier, cost, latency, quality, timeout_ms in [
                    ("small", Tier.ECONOMY, 1.0, 2.0, 0.7, LIMITS.timeout_ms),
                    ("medium", Tier.STANDARD, 2.0, 4.0, 0.8, medium_timeout_ms),
                    ("large", Tier.PREMIUM, 4.0, 8.0, 0.9, LIMITS.timeout_ms),
                ]
            ),
            cascade=cascade,
        )
        self.dispatcher = Dispatcher(
            route, call=self.call, pins=Pins(folder), traffic=TrafficFile(self.traffic_path), observer=self
        )

    def call(self, variant: str, inputs: Tensors, parameters: str, request_id: str) -> Tensors:  # noqa: ARG002
        texts = [text.decode() for text in inputs["TEXT"][:, 0]]
        with self._lock:
            self.calls.append((variant, len(texts)))
            self.parameters.append(parameters)
            self.running[variant] += 1
            self.most_running[variant] = max(self.most_running[variant], self.running[variant])
        try:
            if variant in self.behaviour:
                self.behaviour[variant](texts)
        finally:
            with self._lock:
                self.running[variant] -= 1
        results = [[f"{variant}:{text}".encode()] for text in texts]
        sure = [[0.95, 0.05] if "sure" in text and "unsure" not in text else [0.55, 0.45] for text in texts]
        probabilities = np.array(sure, dtype=np.float32)
        if variant in self.not_finite:
            probabilities[["nan" in text for text in texts], 1] = np.nan
        if variant in self.wider:
            probabilities = np.pad(probabilities, [(0, 0), (0, 1)])
        return {"ANSWER": np.array(results, dtype=np.object_), "PROBABILITIES": probabilities}

    def submit(self, *requests: tuple[list[str], RoutingParameters], parameters: str = "") -> list[Pending]:
        pending = [Pending(len(texts)) for texts, _ in requests]
        now = time.monotonic()
        self.dispatcher.submit(
            [
                RoutedRequest(
                    routing,
                    parameters,
                    {"TEXT": np.array([[text.encode()] for text in texts], dtype=np.object_)},
                    len(texts),
                    now,
                    now + 5.0,
                    one.reply,
                )
                for (texts, routing), one in zip(requests, pending, strict=True)
            ]
        )
        return pending

    def send(self, text: str = "hello", **requested: Any) -> RoutedResult:
        return self.submit(([text], RoutingParameters(**requested)))[0].result()

    def replied(self, route: RouteOutputs, *, seen_ms: float, request_id: str) -> None: ...
    def rejected(self, error: BackendError, *, request_id: str) -> None: ...
    def called(self, variant: str, outcome: str, *, rows: int) -> None: ...

    def predicted(self, variant: str, *, p95_ms: float, seen_ms: float) -> None:  # noqa: ARG002
        self.predictions.append(seen_ms <= p95_ms)

    def breaker_changed(self, variant: str, state: BreakerState) -> None:
        self.breakers.append((variant, state))

    def traffic_error(self, message: str) -> None:  # noqa: ARG002
        self.traffic_errors += 1


class Pending:
    """A pending reply; more than one reply is a bug of the dispatcher."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._there = threading.Event()
        self._result: RoutedResult | BackendError | None = None

    def reply(self, result: RoutedResult | BackendError) -> None:
        assert not self._there.is_set(), "replied to twice"
        self._result = result
        self._there.set()

    def result(self) -> RoutedResult:
        assert self._there.wait(PATIENCE_SECONDS), "no reply"
        if isinstance(self._result, BackendError):
            raise self._result
        assert self._result is not None
        assert len(self._result.routes) == self._rows
        return self._result


def variant_of(result: RoutedResult) -> str:
    """The variant in the result, after a check that it is the one that responded."""
    named = result.routes[0].variant
    assert result.outputs["ANSWER"][0, 0].decode().startswith(f"{named}:")
    return named


def reason_of(result: RoutedResult, row: int = 0) -> dict[str, Any]:
    reason: dict[str, Any] = json.loads(result.routes[row].reason_json)
    assert reason["reason"] == result.routes[row].reason.value
    return reason


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def raise_error(_: list[str]) -> None:
    raise CallError(Fault.ERROR, "boom")


def not_ready(_: list[str]) -> None:
    raise CallError(Fault.NOT_READY, "Model is not ready")


class Hang:
    """Does not respond until it is released."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def __call__(self, _: list[str]) -> None:
        self.release.wait(PATIENCE_SECONDS)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.dispatcher.close()


@pytest.fixture
def world_that_leaves_medium_early(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, medium_timeout_ms=100.0)
    yield made
    made.dispatcher.close()


@pytest.fixture
def cascade(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path, Cascade(Tier.ECONOMY, Tier.PREMIUM, "PROBABILITIES", 1.0, 0.9))
    yield made
    made.dispatcher.close()


@pytest.fixture
def hang() -> Iterator[Hang]:
    made = Hang()
    yield made
    made.release.set()


@pytest.mark.parametrize(("tier", "variant"), [(None, "medium"), (Tier.ECONOMY, "small"), (Tier.PREMIUM, "large")])
def test_tier_picks_the_variant(world: World, tier: Tier | None, variant: str) -> None:
    result = world.send(tier=tier)
    assert variant_of(result) == variant
    assert reason_of(result)["reason"] == "requested_tier"


@pytest.mark.parametrize("failing", ["small", "medium", "large"])
@pytest.mark.parametrize(
    ("behaviour", "fault"), [(raise_error, "error"), (not_ready, "not_ready")], ids=["raises", "unloaded"]
)
def test_failing_variant_is_replaced_by_the_next_one(
    world: World, failing: str, behaviour: Behaviour, fault: str
) -> None:
    world.behaviour[failing] = behaviour
    tier = {"small": Tier.ECONOMY, "medium": Tier.STANDARD, "large": Tier.PREMIUM}[failing]
    result = world.send(tier=tier)
    assert variant_of(result) != failing
    reason = reason_of(result)
    assert reason["reason"] == "fallback"
    assert [(one["variant"], one["fault"]) for one in reason["tried"]] == [(failing, fault)]


def test_a_request_that_ends_processes_is_sent_to_two_and_does_not_affect_others(world: World) -> None:
    def die_of_poison(texts: list[str]) -> None:
        if "poison" in texts:
            raise CallError(Fault.UNHEALTHY, "Stub process 'm_0' is not healthy.")

    world.behaviour = dict.fromkeys(("small", "medium", "large"), die_of_poison)
    poisoned, *others = world.submit(
        *((["poison" if number == 0 else "hello"], RoutingParameters()) for number in range(4))
    )
    with pytest.raises(BackendError, match=r"^not sent again: this request was lost with 2 processes; Stub process"):
        poisoned.result()
    assert all(other.result() for other in others)


def test_hanging_variant_is_abandoned_when_its_time_is_over(world_that_leaves_medium_early: World, hang: Hang) -> None:
    world = world_that_leaves_medium_early
    world.behaviour["medium"] = hang
    result = world.send()
    assert variant_of(result) == "small"
    assert reason_of(result)["tried"][0]["fault"] == "late"


def test_sla_share_ends_in_time_for_the_next_variant(world: World, hang: Hang) -> None:
    world.behaviour["large"] = hang
    result = world.send(tier=Tier.PREMIUM, max_latency_ms=120)
    tried = reason_of(result)["tried"][0]
    assert tried["fault"] == "late"
    # Long before its timeout, so that the SLA could be met.
    assert tried["after_ms"] < LIMITS.timeout_ms


def test_abandoned_calls_are_limited(world_that_leaves_medium_early: World, hang: Hang) -> None:
    world = world_that_leaves_medium_early
    world.behaviour["medium"] = hang
    for _ in range(12):
        pending = world.submit(*[([str(number)], RoutingParameters()) for number in range(20)])
        assert all(variant_of(one.result()) in ("small", "medium") for one in pending)
    assert world.most_running["medium"] <= LIMITS.max_abandoned_calls + LIMITS.max_calls_in_flight


def test_late_end_of_an_abandoned_call_does_not_close_the_breaker(
    world_that_leaves_medium_early: World, hang: Hang
) -> None:
    world = world_that_leaves_medium_early
    world.behaviour["medium"] = hang
    for _ in range(6):
        world.send()
    assert ("medium", BreakerState.OPEN) in world.breakers
    before = len(world.breakers)
    hang.release.set()
    eventually(lambda: world.running["medium"] == 0)
    assert ("medium", BreakerState.CLOSED) not in world.breakers[before:]


def test_open_breaker_keeps_requests_away_and_a_probe_closes_it(world: World) -> None:
    world.behaviour["medium"] = not_ready
    world.send()
    world.calls.clear()
    results = [world.send() for _ in range(5)]
    assert {variant_of(result) for result in results} == {"small"}
    assert reason_of(results[0])["reason"] == "tier_unavailable"
    del world.behaviour["medium"]
    eventually(lambda: variant_of(world.send()) == "medium")
    assert [state for name, state in world.breakers if name == "medium"][-2:] == [
        BreakerState.HALF_OPEN,
        BreakerState.CLOSED,
    ]


def test_one_invalid_row_fails_alone(world: World) -> None:
    def poison(texts: list[str]) -> None:
        if "bad" in texts:
            raise CallError(Fault.ERROR, "cannot read this row")
        time.sleep(0.02)

    for name in ("small", "medium", "large"):
        world.behaviour[name] = poison
    pending = world.submit(
        *[([text], RoutingParameters()) for text in ["a", "b", "c", "bad", "d", "e", "f", "g", "h", "i"]]
    )
    for index, one in enumerate(pending):
        if index == 3:
            with pytest.raises(RequestError, match="cannot read this row"):
                one.result()
        else:
            assert variant_of(one.result()) == "medium"
    assert world.breakers == []


def test_invalid_requests_alone_do_not_open_the_breaker(world: World) -> None:
    for name in ("small", "medium", "large"):
        world.behaviour[name] = raise_error
    for _ in range(20):
        with pytest.raises(RequestError, match="boom"):
            world.send()
    assert world.breakers == []


def test_error_of_the_only_variant_reaches_the_caller(world: World) -> None:
    world.behaviour["large"] = raise_error
    with pytest.raises(CallError, match="boom"):
        world.send(tier=Tier.PREMIUM, min_quality=0.85)
    assert world.breakers == []


def test_unexpected_error_does_not_cost_a_slot(world: World) -> None:
    def surprise(_: list[str]) -> None:
        raise ZeroDivisionError

    world.behaviour["medium"] = surprise
    for _ in range(2 * LIMITS.max_calls_in_flight):
        assert variant_of(world.send()) == "small"
    del world.behaviour["medium"]
    eventually(lambda: variant_of(world.send()) == "medium")


def test_requests_of_one_decision_share_calls_and_each_gets_its_rows(world: World) -> None:
    world.behaviour["medium"] = lambda _: time.sleep(0.02)
    requests = [[f"{number}-{row}" for row in range(1 + number % 3)] for number in range(12)]
    pending = world.submit(*[(texts, RoutingParameters()) for texts in requests])
    for texts, one in zip(requests, pending, strict=True):
        assert [text.decode() for text in one.result().outputs["ANSWER"][:, 0]] == [f"medium:{text}" for text in texts]
    assert len(world.calls) < len(requests)
    assert max(rows for _, rows in world.calls) <= LIMITS.max_rows_per_call
    assert world.most_running["medium"] <= LIMITS.max_calls_in_flight


def test_requests_with_other_parameters_do_not_share_a_call(world: World) -> None:
    world.behaviour["medium"] = lambda _: time.sleep(0.02)
    first = world.submit(*[([str(n)], RoutingParameters()) for n in range(6)], parameters='{"lang": "de"}')
    second = world.submit(*[([str(n)], RoutingParameters()) for n in range(6)], parameters='{"lang": "fr"}')
    for one in first + second:
        one.result()
    rows = Counter[str]()
    for (_, count), parameters in zip(world.calls, world.parameters, strict=True):
        rows[parameters] += count
    assert rows == {'{"lang": "de"}': 6, '{"lang": "fr"}': 6}


def test_slow_variant_loses_requests_with_an_sla_to_faster_ones_and_gets_the_others(world: World) -> None:
    world.behaviour["large"] = lambda _: time.sleep(0.08)
    for _ in range(10):
        world.send(tier=Tier.PREMIUM)
    assert variant_of(world.send(tier=Tier.PREMIUM)) == "large"
    result = world.send(tier=Tier.PREMIUM, max_latency_ms=60)
    assert variant_of(result) == "medium"
    assert reason_of(result)["reason"] == "moved_down"


def test_late_response_is_rejected_on_request(world: World) -> None:
    for name in ("small", "medium", "large"):
        world.behaviour[name] = lambda _: time.sleep(0.05)
    for tier in Tier:
        for _ in range(5):
            world.send(tier=tier)
    with pytest.raises(UnavailableError, match="no variant is predicted to respond within"):
        world.send(max_latency_ms=5, on_sla_risk=OnSlaRisk.REFUSE)
    assert reason_of(world.send(max_latency_ms=5))["sla_at_risk"] is True


def test_limits_that_no_variant_meets_are_rejected(world: World) -> None:
    with pytest.raises(LimitError):
        world.send(min_quality=0.95)


def test_without_a_variant_left_the_error_has_the_reason(world: World) -> None:
    for name in ("small", "medium", "large"):
        world.behaviour[name] = not_ready
    with pytest.raises(UnavailableError, match="Model is not ready"):
        world.send()
    with pytest.raises(UnavailableError, match=r"medium \(breaker_open\)"):
        world.send()


def test_decide_only_names_the_variant_and_calls_none(world: World) -> None:
    pending = world.submit((["x", "y"], RoutingParameters(tier=Tier.PREMIUM, decide_only=True, explain=True)))
    result = pending[0].result()
    assert [route.variant for route in result.routes] == ["large", "large"]
    assert result.outputs == {}
    reason = reason_of(result)
    assert {one["variant"]: one["verdict"] for one in reason["considered"]} == {
        "small": "less_preferred",
        "medium": "less_preferred",
        "large": "chosen",
    }
    assert world.calls == []


def test_canary_gets_its_share_by_sticky_key(world: World) -> None:
    world.traffic_path.write_text(json.dumps({"canary_percent": {"medium": 30}}))
    first = {key: variant_of(world.send(sticky_key=key)) for key in map(str, range(40))}
    assert set(first.values()) == {"medium", "medium__canary"}
    assert first == {key: variant_of(world.send(sticky_key=key)) for key in first}
    assert reason_of(world.send(sticky_key=next(k for k, v in first.items() if v != "medium")))["canary"] is True


def test_failing_canary_is_replaced_by_its_stable_variant(world: World) -> None:
    world.traffic_path.write_text(json.dumps({"canary_percent": {"medium": 100}}))
    world.behaviour["medium__canary"] = not_ready
    reason = reason_of(world.send())
    assert reason["tried"][0]["variant"] == "medium__canary"
    assert variant_of(world.send()) == "medium"


def test_invalid_traffic_file_is_reported_once_and_the_last_valid_one_applies(world: World) -> None:
    world.traffic_path.write_text(json.dumps({"canary_percent": {"medium": 100}}))
    world.send()
    world.traffic_path.write_text("{")
    assert [variant_of(world.send()) for _ in range(3)] == ["medium__canary"] * 3
    assert world.traffic_errors == 1


def test_cascade_sends_only_unsure_rows_to_the_second_tier(cascade: World) -> None:
    pending = cascade.submit((["sure a", "unsure b", "sure c"], RoutingParameters(tier=AUTO)))
    result = pending[0].result()
    assert [text.decode() for text in result.outputs["ANSWER"][:, 0]] == [
        "small:sure a",
        "large:unsure b",
        "small:sure c",
    ]
    assert [route.variant for route in result.routes] == ["small", "large", "small"]
    assert [reason_of(result, row)["reason"] for row in range(3)] == [
        "cascade_sure",
        "cascade_escalated",
        "cascade_sure",
    ]
    assert reason_of(result, 1)["confidence"] == pytest.approx(0.55, abs=1e-4)


def test_cascade_uses_a_higher_tier_when_the_second_is_out_of_service(cascade: World) -> None:
    cascade.behaviour["large"] = not_ready
    result = cascade.send("unsure", tier=AUTO)
    assert variant_of(result) == "medium"
    assert reason_of(result)["tried"][0]["variant"] == "large"


def test_cascade_keeps_the_unsure_result_without_another_variant(cascade: World) -> None:
    cascade.behaviour["large"] = cascade.behaviour["medium"] = not_ready
    result = cascade.send("unsure", tier=AUTO)
    assert variant_of(result) == "small"
    assert reason_of(result)["reason"] == "cascade_kept"


def test_cascade_keeps_the_unsure_result_when_no_time_is_left(cascade: World) -> None:
    for name in ("medium", "large"):
        cascade.behaviour[name] = lambda _: time.sleep(0.08)
    for tier in (Tier.STANDARD, Tier.PREMIUM):
        for _ in range(8):
            cascade.send(tier=tier)
    result = cascade.send("unsure", tier=AUTO, max_latency_ms=40)
    assert reason_of(result)["reason"] == "cascade_kept"


def test_named_tier_does_not_cascade(cascade: World) -> None:
    result = cascade.send("unsure", tier=Tier.ECONOMY)
    assert variant_of(result) == "small"
    assert reason_of(result)["reason"] == "requested_tier"


def test_many_callers_with_mixed_parameters_get_the_outputs_of_the_named_variant(world: World) -> None:
    def flaky(texts: list[str]) -> None:
        time.sleep(0.002)
        if sum(map(len, texts)) % 7 == 0:
            raise CallError(Fault.ERROR, "now and then")

    world.behaviour["medium"] = flaky
    faults: list[BaseException] = []

    def caller(number: int) -> None:
        try:
            for turn in range(20):
                tier = [None, *Tier][(number + turn) % 4]
                texts = [f"{number}/{turn}/{row}" for row in range(1 + turn % 3)]
                routing = RoutingParameters(
                    tier=tier, max_latency_ms=[None, 500.0][turn % 2], sticky_key=f"key-{number}"
                )
                result = world.submit((texts, routing))[0].result()
                named = [route.variant for route in result.routes]
                got = [text.decode() for text in result.outputs["ANSWER"][:, 0]]
                assert got == [f"{name}:{text}" for name, text in zip(named, texts, strict=True)]
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=caller, args=(number,)) for number in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS * 3)
    assert not any(thread.is_alive() for thread in threads)
    assert faults == []


def test_a_row_that_is_not_finite_goes_to_the_next_variant_and_other_rows_are_served(world: World, hang: Hang) -> None:
    world.not_finite = {"medium"}
    world.behaviour["medium"] = hang
    held = world.submit(*[(["hello"], RoutingParameters())] * LIMITS.max_calls_in_flight)
    waiting = world.submit((["one", "two"], RoutingParameters()), (["fine", "nan"], RoutingParameters()))
    world.behaviour.clear()
    hang.release.set()
    assert {variant_of(one.result()) for one in (*held, waiting[0])} == {"medium"}
    moved = waiting[1].result()
    assert ("medium", 4) in world.calls
    assert variant_of(moved) == "small"
    assert reason_of(moved)["tried"][0]["fault"] == "not_finite"


def test_a_row_without_a_finite_result_is_an_error_with_model_and_row(world: World) -> None:
    world.not_finite = {"small", "medium", "large"}
    pending = world.submit((["fine", "nan"], RoutingParameters()))[0]
    with pytest.raises(CallError, match=r"^medium returned a value in row 1 that is not a finite number$"):
        pending.result()


def test_after_an_encoder_rejects_a_row_as_not_finite_other_rows_are_sent_alone(world: World, hang: Hang) -> None:
    def refuse(texts: list[str]) -> None:
        if "nan" in texts:
            raise CallError(fault_of("row 0 of X is not a finite number"), "row 0 of X is not a finite number")

    world.behaviour["medium"] = hang
    held = world.submit(*[(["hello"], RoutingParameters())] * LIMITS.max_calls_in_flight)
    waiting = world.submit((["fine"], RoutingParameters()), (["nan"], RoutingParameters()))
    world.behaviour["medium"] = refuse
    hang.release.set()
    assert [variant_of(one.result()) for one in (*held, *waiting)] == ["medium", "medium", "medium", "small"]


def test_the_first_result_is_kept_if_the_seconds_has_another_shape(cascade: World) -> None:
    cascade.wider = {"large"}
    result = cascade.submit((["sure", "unsure"], RoutingParameters(tier=AUTO)))[0].result()
    assert [reason_of(result, row)["reason"] for row in (0, 1)] == ["cascade_sure", "cascade_kept"]


def test_the_caller_gets_the_first_failures_reason_when_every_variant_fails(world: World) -> None:
    def overloaded(_: list[str]) -> None:
        raise CallError(Fault.OVERLOADED, "medium: Exceeds maximum queue size")

    world.behaviour = {"medium": overloaded, "small": not_ready, "large": raise_error}
    with pytest.raises(UnavailableError, match=r"^medium: Exceeds maximum queue size$"):
        world.send()
