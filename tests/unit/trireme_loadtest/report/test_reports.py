from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from trireme.errors import ConfigError
from trireme_loadtest.judge.slo import Objective, Slo
from trireme_loadtest.judge.verdict import judge
from trireme_loadtest.record import LoadRecord
from trireme_loadtest.report.files import summary, write_reports
from trireme_loadtest.report.text import text_report

from tests.unit.trireme_loadtest.records import record

_RUN = record([[10.0 + one / 10 for one in range(100)]] * 5, errors={"UNAVAILABLE": 3})
_SLO = Slo(
    Path("slo.toml"),
    (
        Objective("embedding", "p50_ms", 50.0),
        Objective("embedding", "p95_ms", 5.0),
        Objective("embedding", "ttft_p95_ms", 5.0),
    ),
)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    _RUN.write(tmp_path / "run.json")

    read = LoadRecord.read(tmp_path / "run.json")

    assert read.task("embedding") == _RUN.task("embedding")
    assert list(read.tasks["embedding"]) == list(_RUN.tasks["embedding"])
    assert (read.started_at, read.settings, read.generator) == (_RUN.started_at, _RUN.settings, _RUN.generator)


@pytest.mark.parametrize("content", ["{", "[]", '{"format": "another"}', '{"format": "trireme load run 1"}'])
def test_a_file_that_is_not_a_record_is_rejected_in_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "run.json").write_text(content)

    with pytest.raises(ConfigError, match="not the record of a load run"):
        LoadRecord.read(tmp_path / "run.json")


def test_the_text_report_has_rates_errors_and_verdict() -> None:
    text = text_report(_RUN, judge(_RUN, _SLO))

    assert "3 x UNAVAILABLE" in text
    assert "3 (0.60%)" in text
    assert "SLO: broken" in text


def test_junit_has_a_case_per_objective_broken_failed_and_inconclusive_in_error(tmp_path: Path) -> None:
    write_reports(_RUN, judge(_RUN, _SLO), tmp_path)

    suite = ElementTree.parse(tmp_path / "junit.xml").getroot()[0]
    outcomes = {case.get("name"): [child.tag for child in case] for case in suite}
    assert outcomes == {"p50_ms": [], "p95_ms": ["failure"], "ttft_p95_ms": ["error"]}
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")


def test_the_page_is_self_contained_and_escaped(tmp_path: Path) -> None:
    run = record([[10.0] * 100], task="<script>alert(1)</script>")
    write_reports(run, None, tmp_path)

    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "src=" not in page
    assert "href=" not in page
    assert not (tmp_path / "junit.xml").exists()


def test_the_page_of_a_run_without_a_successful_request_can_be_written(tmp_path: Path) -> None:
    run = record([[]], errors={"UNAVAILABLE": 5})

    write_reports(run, judge(run, _SLO), tmp_path)

    assert "5 UNAVAILABLE" in (tmp_path / "report.html").read_text()


def test_the_summary_is_json_without_nan() -> None:
    run = record([[]], errors={"UNAVAILABLE": 5})

    document = json.dumps(summary(run, judge(run, _SLO)), allow_nan=False)

    assert json.loads(document)["verdict"]["outcome"] == "inconclusive"
