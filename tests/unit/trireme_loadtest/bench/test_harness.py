from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner
from trireme_loadtest.bench.harness import Column, Contender, MachineFacts, Measurement, Report, interleave
from trireme_loadtest.commands.bench import bench


def test_repetitions_are_interleaved_and_every_other_round_runs_in_reverse() -> None:
    order: list[str] = []

    def contender(name: str) -> Contender:
        def repeat() -> dict[str, float]:
            order.append(name)
            return {"runs": float(len(order))}

        return Contender(name, "", repeat)

    results = interleave([contender("a"), contender("b")], repetitions=3)

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [result.values["runs"] for result in results] == [(1.0, 4.0, 5.0), (2.0, 3.0, 6.0)]


def test_a_ratio_is_computed_within_each_repetition() -> None:
    slow_then_fast = Measurement("limit", "", {"rate": (100.0, 200.0)})
    half = Measurement("server", "", {"rate": (50.0, 100.0)})

    assert half.with_ratio("rate", to=slow_then_fast, name="share").values["share"] == (0.5, 0.5)


def test_a_report_shows_medians_with_their_spread_and_keeps_every_value(tmp_path: Path) -> None:
    result = Measurement("server", "concurrency 8", {"rate": (9.0, 10.0, 14.0), "p50_ms": (1.25, 1.25, 1.25)})
    columns = (Column("req/s", "rate", digits=0, spread=True), Column("p50 ms", "p50_ms", digits=2))
    report = Report("example", columns, [result], MachineFacts.read(), settings={"seconds": 1})

    json_path, markdown_path = report.write(tmp_path)

    assert "| server | concurrency 8 | 10 (9-14) | 1.25 |" in markdown_path.read_text()
    document = json.loads(json_path.read_text())
    assert document["results"][0]["values"]["rate"] == [9.0, 10.0, 14.0]
    assert document["results"][0]["median"]["rate"] == 10.0
    assert document["machine"]["cores"] >= 1


def test_a_missing_metric_is_an_empty_cell() -> None:
    assert Column("p50", "p50_ms").cell(Measurement("limit", "", {"rate": (1.0,)})) == ""


def test_an_unknown_benchmark_is_a_usage_error() -> None:
    outcome = CliRunner().invoke(bench, ["nonsense"])

    assert outcome.exit_code == 2
    assert "No such command 'nonsense'" in outcome.output


def test_shared_code_of_benchmarks_is_not_a_benchmark() -> None:
    listed = CliRunner().invoke(bench, ["--help"]).output

    assert "harness" not in listed
    assert CliRunner().invoke(bench, ["harness"]).exit_code == 2
    assert CliRunner().invoke(bench, ["peers"]).exit_code == 2
