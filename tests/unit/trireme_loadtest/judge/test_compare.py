from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from trireme_loadtest.commands.load import load
from trireme_loadtest.errors import SpecError
from trireme_loadtest.judge.compare import Difference, compare
from trireme_loadtest.record import LoadRecord

from tests.unit.trireme_loadtest.records import record


def _run(mean_ms: float, seed: int, seconds: int = 40) -> LoadRecord:
    """Seconds that differ from each other, as those of a server do."""
    chance = np.random.default_rng(seed)
    return record([(chance.exponential(mean_ms * chance.uniform(0.8, 1.2), 50) + 1).tolist() for _ in range(seconds)])


def _by_measure(differences: list[Difference]) -> dict[str, Difference]:
    return {one.measure: one for one in differences}


def test_a_slower_run_is_distinguished_from_noise() -> None:
    found = _by_measure(compare(_run(10.0, seed=1), _run(13.0, seed=2)))

    assert found["p50 ms"].word == "higher"
    assert found["p50 ms"].low < 3 * np.log(2) < found["p50 ms"].high
    assert found["error rate"].word == "no difference shown"


@pytest.mark.parametrize(("comparisons", "most"), [(10, 2), pytest.param(100, 12, marks=pytest.mark.slow)])
def test_equal_servers_rarely_differ(comparisons: int, most: int) -> None:
    runs = [_run(10.0, seed) for seed in range(2 * comparisons)]
    shown = sum(_by_measure(compare(*pair))["p95 ms"].is_shown for pair in zip(runs[::2], runs[1::2], strict=True))

    # At 95 % confidence one of twenty is expected.
    assert shown <= most


def test_the_values_are_those_of_the_reports() -> None:
    first, second = _run(10.0, seed=1), _run(13.0, seed=2)
    found = _by_measure(compare(first, second))

    assert found["p95 ms"].first == first.task("embedding").latency.percentile_ms(95)
    assert found["p99 ms"].second == second.task("embedding").latency.percentile_ms(99)
    assert found["answered/s"].first == 50


def test_short_runs_are_shown_without_an_interval() -> None:
    found = compare(_run(10.0, seed=1, seconds=5), _run(20.0, seed=2))

    assert {one.word for one in found} == {"too short to decide"}


def test_an_invalid_run_is_not_compared() -> None:
    with pytest.raises(SpecError, match="the second run is invalid"):
        compare(_run(10.0, seed=1), record([[1.0]] * 20, problem="busy"))


def test_runs_of_different_tasks_are_not_compared() -> None:
    with pytest.raises(SpecError, match="no task in common: embedding in the first, sentiment in the second"):
        compare(_run(10.0, seed=1), record([[1.0]] * 20, task="sentiment"))


def test_the_command_takes_the_folders_of_two_runs_and_writes_a_page(tmp_path: Path) -> None:
    _run(10.0, seed=1).write(tmp_path / "a" / "run.json")
    _run(13.0, seed=2).write(tmp_path / "b" / "run.json")
    page = tmp_path / "compare.html"

    done = CliRunner().invoke(load, ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--html", str(page)])

    assert done.exit_code == 0, done.output
    assert "higher" in done.output
    assert "p95 over time" in page.read_text()
