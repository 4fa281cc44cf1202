"""The prediction: how it learns and forgets, and its accuracy on a trace of the real server."""

from __future__ import annotations

import csv
import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from trireme_backends.routing.latency import LatencyEstimator, TimeBudget
from trireme_backends.routing.route import Limits

# Requests and calls of sentiment_premium behind the router on 2 cores, in open loop: 20 to 400 requests per second,
# in bursts. The file's first line describes its columns.
TRACE = Path(__file__).with_name("latency_trace.csv")
EXPECTED_MS = 9.0
LIMITS = Limits()


def learnt(*calls: tuple[int, float], now: float = 0.0) -> LatencyEstimator:
    estimator = LatencyEstimator(EXPECTED_MS)
    for rows, call_ms in calls:
        estimator.call_ended(rows=rows, call_ms=call_ms, now=now)
    return estimator


def test_rules_apply_until_the_first_observation() -> None:
    assert LatencyEstimator(EXPECTED_MS).call_ms(1, now=0.0) == pytest.approx(EXPECTED_MS)


def test_overhead_and_time_per_row_are_distinguished() -> None:
    calls = [(rows, 4.0 + 2.0 * rows) for rows in (1, 4, 8, 16, 2, 12, 6, 10)] * 8
    estimator = learnt(*calls)
    assert estimator.call_ms(1, now=0.0) == pytest.approx(6.0, abs=0.7)
    assert estimator.call_ms(16, now=0.0) == pytest.approx(36.0, rel=0.03)


def test_with_constant_row_counts_more_rows_are_expected_to_cost_more() -> None:
    estimator = learnt(*[(1, 5.0)] * 50)
    assert estimator.call_ms(1, now=0.0) == pytest.approx(5.0, abs=0.2)
    assert estimator.call_ms(4, now=0.0) > 10.0


def test_slow_period_is_forgotten_without_observations() -> None:
    estimator = learnt(*[(1, 500.0)] * 50)
    for _ in range(50):
        estimator.request_ended(point_ms=10.0, seen_ms=500.0, now=0.0)
    slow = estimator.p95_ms(estimator.call_ms(1, now=0.0), now=0.0)
    later = estimator.p95_ms(estimator.call_ms(1, now=120.0), now=120.0)
    assert slow > 1000.0
    assert later < 3 * EXPECTED_MS


def test_change_of_speed_is_learnt_within_a_few_dozen_calls() -> None:
    estimator = learnt(*[(1, 5.0)] * 100, *[(1, 50.0)] * 60)
    assert estimator.call_ms(1, now=0.0) == pytest.approx(50.0, rel=0.2)


def test_queue_counts_the_calls_in_flight_and_those_in_front() -> None:
    estimator = learnt(*[(rows, 10.0 * rows) for rows in (1, 2, 4, 8, 16)] * 20)

    def queue_ms(waiting: int, running: list[tuple[int, float]], *, free: bool = False) -> float:
        return estimator.queue_ms(1, waiting=waiting, free=free, running=running, limits=LIMITS, now=1.0)

    assert queue_ms(0, [], free=True) == pytest.approx(10.0, abs=1.0)
    # The sooner of two calls has 20 ms left.
    assert queue_ms(0, [(4, 0.98), (8, 0.99)]) == pytest.approx(20.0 + 10.0, abs=2.0)
    assert queue_ms(3, [(4, 0.98), (8, 0.99)]) == pytest.approx(20.0 + 40.0, abs=3.0)
    # 16 of the 20 waiting rows fill a call; two calls run at a time.
    assert queue_ms(20, [(4, 0.98), (8, 0.99)]) == pytest.approx(20.0 + 80.0 + 50.0, rel=0.05)


def test_late_call_in_flight_is_not_expected_to_have_ended_already() -> None:
    estimator = learnt(*[(1, 10.0)] * 50)
    assert estimator.queue_ms(1, waiting=0, free=False, running=[(1, 0.0)], limits=LIMITS, now=5.0) > 0


def test_quantile_covers_95_percent_whatever_the_noise() -> None:
    random = np.random.default_rng(3)
    for spread in (0.1, 0.5, 1.0):
        estimator = LatencyEstimator(EXPECTED_MS)
        kept = []
        for seen_ms in 10.0 * random.lognormal(0.0, spread, 4000):
            kept.append(seen_ms <= estimator.p95_ms(10.0, now=0.0))
            estimator.request_ended(point_ms=10.0, seen_ms=float(seen_ms), now=0.0)
        assert np.mean(kept[500:]) == pytest.approx(0.95, abs=0.02)


@dataclass(frozen=True, slots=True)
class Request:
    placed: float
    answered: float
    rows: int
    waiting: int
    running: list[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Call:
    started: float
    ended: float
    rows: int


def test_prediction_is_accurate_on_a_replayed_trace() -> None:
    kept, width = _judge(_QueueAware())
    assert 0.92 <= kept <= 0.98
    # The plain p95 of recent latencies is either wrong or much wider, since it ignores the queue.
    plain_kept, plain_width = _judge(_SlidingWindow())
    assert abs(plain_kept - 0.95) > abs(kept - 0.95) or plain_width > 1.5 * width


class _QueueAware:
    def __init__(self) -> None:
        self._estimator = LatencyEstimator(EXPECTED_MS)
        self._points: dict[int, float] = {}

    def predict(self, request: Request) -> float:
        point_ms = self._estimator.queue_ms(
            request.rows,
            waiting=request.waiting,
            free=len(request.running) < LIMITS.max_calls_in_flight,
            running=request.running,
            limits=LIMITS,
            now=request.placed,
        )
        self._points[id(request)] = point_ms
        return self._estimator.p95_ms(point_ms, request.placed)

    def call_ended(self, call: Call) -> None:
        self._estimator.call_ended(rows=call.rows, call_ms=(call.ended - call.started) * 1000, now=call.ended)

    def answered(self, request: Request) -> None:
        seen_ms = (request.answered - request.placed) * 1000
        self._estimator.request_ended(point_ms=self._points.pop(id(request)), seen_ms=seen_ms, now=request.answered)


class _SlidingWindow:
    def __init__(self) -> None:
        self._seen: deque[float] = deque([EXPECTED_MS], maxlen=100)

    def predict(self, request: Request) -> float:  # noqa: ARG002
        return float(np.percentile(self._seen, 95))

    def call_ended(self, call: Call) -> None: ...

    def answered(self, request: Request) -> None:
        self._seen.append((request.answered - request.placed) * 1000)


def _judge(predictor: _QueueAware | _SlidingWindow) -> tuple[float, float]:
    """Share of responses within their prediction, and the spread of the logarithm of predicted over observed."""
    predicted: dict[int, float] = {}
    kept, ratios = [], []
    for _, act in _events(predictor, predicted, kept, ratios):
        act()
    return float(np.mean(kept)), math.exp(float(np.mean(np.abs(np.log(ratios)))))


def _events(
    predictor: _QueueAware | _SlidingWindow, predicted: dict[int, float], kept: list[bool], ratios: list[float]
) -> list[tuple[float, Callable[[], None]]]:
    events: list[tuple[float, Callable[[], None]]] = []
    requests, calls = _read_trace()
    for number, request in enumerate(requests):

        def place(number: int = number, request: Request = request) -> None:
            predicted[number] = predictor.predict(request)

        def answer(number: int = number, request: Request = request) -> None:
            seen_ms = (request.answered - request.placed) * 1000
            kept.append(seen_ms <= predicted[number])
            ratios.append(predicted[number] / seen_ms)
            predictor.answered(request)

        events += [(request.placed, place), (request.answered, answer)]
    for call in calls:
        events.append((call.ended, lambda call=call: predictor.call_ended(call)))  # type: ignore[misc]
    return sorted(events, key=lambda event: event[0])


def _read_trace() -> tuple[list[Request], list[Call]]:
    rows = list(_rows())
    calls = [Call(float(row[1]), float(row[2]), int(row[3])) for row in rows if row[0] == "call"]
    requests = []
    for row in rows:
        if row[0] == "request":
            placed = float(row[1])
            running = [(call.rows, call.started) for call in calls if call.started < placed < call.ended]
            requests.append(Request(placed, float(row[2]), int(row[3]), int(row[4]), running))
    return requests, calls


def _rows() -> Iterator[list[str]]:
    with TRACE.open() as file:
        yield from csv.reader(line for line in file if not line.startswith("#"))


def test_the_whole_time_is_available_until_a_response_is_late() -> None:
    assert TimeBudget().share(now=1000.0) == 1.0


def test_late_response_cuts_the_share_and_time_restores_it() -> None:
    budget = TimeBudget()
    budget.cut(now=10.0)
    assert budget.share(now=10.0) == pytest.approx(0.7)
    assert budget.share(now=11.0) == pytest.approx(0.8)
    assert budget.share(now=100.0) == 1.0


def test_responses_that_are_late_together_count_once() -> None:
    budget = TimeBudget()
    for thousandth in range(100):
        budget.cut(now=10.0 + thousandth / 1000)
    assert budget.share(now=10.0) == pytest.approx(0.7)


def test_a_minimum_share_is_always_left_to_detect_recovery() -> None:
    budget = TimeBudget()
    for second in range(1000):
        budget.cut(now=10.0 + second / 5)
    assert 0 < budget.share(now=210.0) < 0.1
