from __future__ import annotations

import json
from pathlib import Path

import pytest
from trireme_loadtest.bench.harness import Column, MachineFacts, Measurement, Report
from trireme_loadtest.bench.perf_analyzer import agreement
from trireme_loadtest.bench.sweep import RateStep, bisect, conclusion
from trireme_loadtest.judge.slo import Objective, Slo
from trireme_loadtest.judge.verdict import judge

from tests.unit.trireme_loadtest.records import record

_SLO = Slo(Path("slo.toml"), (Objective("embedding", "p95_ms", 50.0),))


def _step(rate: float, *latencies_ms: float, problem: str | None = None) -> RateStep:
    """One run per latency."""
    runs = [record([[latency] * 500], problem=problem) for latency in latencies_ms]
    return RateStep(rate, tuple((run, judge(run, _SLO)) for run in runs))


def _server_that_holds(limit: float) -> tuple[list[float], list[RateStep]]:
    asked: list[float] = []

    def probe(rate: float) -> RateStep:
        asked.append(rate)
        return _step(rate, 10.0 if rate <= limit else 100.0)

    return asked, bisect(probe, 10.0, 1000.0, 0.05)


def test_bisection_converges_to_the_highest_rate() -> None:
    _, steps = _server_that_holds(137.0)

    met = max(step.rate for step in steps if step.met)
    missed = min(step.rate for step in steps if not step.met)
    assert met <= 137 < missed
    assert missed / met <= 1.05
    assert len(steps) <= 10
    assert conclusion(steps) == f"The highest rate that meets the SLO is {met:.4g}/s; {missed:.4g}/s does not meet it."


def test_a_server_that_meets_no_rate_is_reported_at_once() -> None:
    asked, steps = _server_that_holds(1.0)

    assert asked == [10.0]
    assert conclusion(steps).startswith("Even 10/s does not meet the SLO: no run can meet it on this machine")


def test_a_server_that_meets_every_rate_is_reported() -> None:
    asked, steps = _server_that_holds(5000.0)

    assert asked == [10.0, 1000.0]
    assert conclusion(steps) == "Even 1000/s meets the SLO; raise --to."


def test_the_majority_of_runs_decides_a_rate() -> None:
    assert _step(10.0, 10.0, 100.0, 10.0).met
    assert not _step(10.0, 10.0, 100.0, 100.0).met
    assert not _step(10.0, 10.0, 100.0).met


def test_a_rate_that_the_generator_could_not_send_does_not_count_as_met() -> None:
    steps = [_step(10.0, 10.0), _step(1000.0, 10.0, problem="a generator process was busy")]

    assert not steps[1].met
    assert conclusion(steps).endswith("The generator was the limit there: a generator process was busy.")


def test_a_step_without_a_successful_request_can_be_reported(tmp_path: Path) -> None:
    run = record([[]], errors={"UNAVAILABLE": 5})
    measured = RateStep(10.0, ((run, judge(run, _SLO)),)).measured()

    path, _ = Report("sweep", (Column("p50", "p50_ms"),), [measured], MachineFacts.read(), {}).write(tmp_path)

    assert json.loads(path.read_text())["results"][0]["median"]["p50_ms"] is None


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        ((101.0, 99.0), "both agree within the noise"),
        ((120.0, 118.0), "do not overlap in requests/s +18.4%"),
    ],
)
def test_two_generators_agree_when_their_repetitions_overlap(rates: tuple[float, ...], expected: str) -> None:
    same = {"p50_ms": (10.0, 11.0), "p95_ms": (20.0, 21.0), "p99_ms": (30.0, 31.0)}
    ours = Measurement("trireme", "concurrency 8", {"requests_per_second": rates, **same})
    theirs = Measurement("perf_analyzer", "concurrency 8", {"requests_per_second": (100.0, 101.0), **same})

    assert expected in agreement(ours, theirs)
