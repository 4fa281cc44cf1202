from __future__ import annotations

from pathlib import Path

import pytest
from trireme.errors import ConfigError
from trireme_loadtest.judge.slo import Objective, Slo


def _read(tmp_path: Path, text: str) -> Slo:
    path = tmp_path / "slo.toml"
    path.write_text(text)
    return Slo.read(path)


def test_objectives_are_read_for_tasks_and_for_all(tmp_path: Path) -> None:
    slo = _read(tmp_path, "[all]\nerror_rate = 0.01\n[tasks.embedding]\np95_ms = 60\nttft_p50_ms = 5\np99_9_ms = 200\n")

    assert slo.objectives == (
        Objective(None, "error_rate", 0.01),
        Objective("embedding", "p95_ms", 60.0),
        Objective("embedding", "ttft_p50_ms", 5.0),
        Objective("embedding", "p99_9_ms", 200.0),
    )
    assert [one.measure for one in slo.objectives] == ["error_rate", "latency", "ttft", "latency"]
    assert slo.objectives[3].percent == 99.9


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("p95_ms = = 3", "slo.toml:1:10: not TOML"),
        ("p95_ms = 3", "slo.toml:1: unknown key 'p95_ms'; available: 'all', 'tasks'"),
        ("[all]\np96_ms = 3", r"slo.toml:2: unknown key 'all.p96_ms'; available: .*'p50_ms'"),
        ("[tasks.a]\np95_ms = 'fast'", "slo.toml:2: tasks.a.p95_ms is 'fast'; it must be a number"),
        ("[all]\np95_ms = true", "must be a number"),
        ("[all]\np95_ms = 0", "must be above zero"),
        ("[all]\np95_ms = nan", "must be a finite number"),
        ("[all]\nminimum_rate = -1", "must be above zero"),
        ("[all]\nerror_rate = 5", "a share from 0 to below 1"),
        ("[all]\np50_ms = 30\np99_ms = 20", "slo.toml:1: all: p50_ms = 30 is above p99_ms = 20"),
        ("", "has no objective"),
        ("[all]", "has no objective"),
        ("tasks = 3", "tasks is 3; it must be an object .a table in TOML"),
        ("all = 3", "all is 3; it must be an object .a table in TOML"),
    ],
)
def test_a_malformed_file_is_rejected_in_one_sentence(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        _read(tmp_path, text)

    assert "slo.toml" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_task_that_the_run_does_not_have_is_rejected(tmp_path: Path) -> None:
    slo = _read(tmp_path, "[tasks.embeding]\np95_ms = 60\n")

    with pytest.raises(ConfigError, match=r"\[tasks.embeding\] is not in this run; available: embedding"):
        slo.check_tasks(["embedding"])


def test_a_rate_above_the_asked_one_is_rejected_before_the_run(tmp_path: Path) -> None:
    slo = _read(tmp_path, "[all]\nminimum_rate = 50\n")

    with pytest.raises(ConfigError, match="cannot be met: the run sends only 10/s"):
        slo.check_rates({None: 10.0, "embedding": 10.0})
