from __future__ import annotations

from pathlib import Path

import numpy as np
from trireme_loadtest.judge.slo import Objective, Slo
from trireme_loadtest.judge.verdict import SloOutcome, SloVerdict, judge
from trireme_loadtest.record import LoadRecord

from tests.unit.trireme_loadtest.records import record


def _judge(run: LoadRecord, **limits: float) -> SloVerdict:
    return judge(run, Slo(Path("slo.toml"), tuple(Objective("embedding", key, limit) for key, limit in limits.items())))


def _exponential(count: int, mean_ms: float) -> list[list[float]]:
    chance = np.random.default_rng(1)
    return [(chance.exponential(mean_ms, count) + 1).tolist() for _ in range(10)]


def test_a_percentile_well_within_its_limit_is_met() -> None:
    assert _judge(record(_exponential(100, 10.0)), p95_ms=60).outcome is SloOutcome.MET


def test_a_percentile_well_above_its_limit_is_broken() -> None:
    verdict = _judge(record(_exponential(100, 10.0)), p95_ms=15)

    assert verdict.outcome is SloOutcome.BROKEN
    assert "of the requests took longer than 15 ms" in verdict.findings[0].reason


def test_a_limit_within_the_noise_is_inconclusive() -> None:
    verdict = _judge(record(_exponential(20, 10.0)), p95_ms=31)

    assert verdict.outcome is SloOutcome.INCONCLUSIVE
    assert "within the noise" in verdict.findings[0].reason


def test_too_few_samples_are_inconclusive_with_the_number_needed() -> None:
    verdict = _judge(record([[10.0] * 40]), p99_ms=100)

    assert verdict.outcome is SloOutcome.INCONCLUSIVE
    # 0.99 ** 368 is below one in forty: with fewer samples the slowest hundredth is unknown.
    assert verdict.findings[0].reason == "too few samples: 40; at least 368 are needed"


def test_the_needed_samples_are_enough() -> None:
    assert _judge(record([[10.0] * 368]), p99_ms=100).outcome is SloOutcome.MET


def test_few_samples_can_break_an_objective_that_they_cannot_meet() -> None:
    assert _judge(record([[500.0] * 40]), p99_ms=100).outcome is SloOutcome.BROKEN


def test_an_objective_that_no_run_can_meet_reports_by_how_much() -> None:
    verdict = _judge(record([[20.0 + one % 7 for one in range(400)]]), p50_ms=5)

    assert verdict.outcome is SloOutcome.BROKEN
    assert verdict.findings[0].reason == (
        "no run can meet it on this machine: even the fastest request took 20 ms, 4.0 times the limit"
    )


def test_errors_above_their_rate_are_broken_and_named() -> None:
    verdict = _judge(record([[10.0] * 98], errors={"UNAVAILABLE": 2}), error_rate=0.01)

    assert verdict.outcome is SloOutcome.BROKEN
    assert verdict.findings[0].reason == "2 of 100 failed: 2 UNAVAILABLE"


def test_no_errors_among_too_few_requests_are_inconclusive() -> None:
    assert _judge(record([[10.0] * 98]), error_rate=0.001).outcome is SloOutcome.INCONCLUSIVE
    assert _judge(record([[10.0] * 1000]), error_rate=0.001).outcome is SloOutcome.MET


def test_a_rate_counts_successful_requests_only() -> None:
    run = record([[10.0] * 50, [10.0] * 50], errors={"UNAVAILABLE": 40})

    assert _judge(run, minimum_rate=50).outcome is SloOutcome.MET
    assert _judge(run, minimum_rate=60).outcome is SloOutcome.BROKEN


def test_a_rate_includes_the_time_of_late_responses() -> None:
    behind = record([[9000.0] * 100] * 2, answered_seconds=20.0)

    assert behind.task("embedding").answered_rate == 10
    assert _judge(behind, minimum_rate=90).outcome is SloOutcome.BROKEN


def test_an_objective_on_streams_needs_a_stream() -> None:
    verdict = _judge(record([[10.0] * 100]), ttft_p50_ms=100)

    assert verdict.outcome is SloOutcome.INCONCLUSIVE
    assert "does not stream" in verdict.findings[0].reason


def test_a_run_that_the_generator_limited_is_inconclusive() -> None:
    verdict = _judge(record([[500.0] * 100], problem="a generator process was busy"), p95_ms=10)

    assert verdict.outcome is SloOutcome.INCONCLUSIVE
    assert verdict.reason == "invalid: a generator process was busy"
