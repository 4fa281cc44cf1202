"""Every case of the corpus gets the verdict its file asks for, by the rules it names and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from trireme.lint import Severity, lint
from trireme.processes.machine import Machine

from tests.lint_corpus.corpus import Case, all_cases

CASES = all_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_lint_gives_the_verdict_of_the_case(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path)
    report = lint(folder, Machine(cores=2, gpus=case.machine_gpus))
    said = "\n".join(map(str, report.findings))
    assert {finding.rule for finding in report.of(Severity.ERROR)} == set(case.rules), said
    assert {finding.rule for finding in report.of(Severity.WARNING)} >= set(case.warnings), said
    assert bool(report.of(Severity.NGC_ONLY)) == case.ngc_only, said
    assert report.passed == case.good


def test_the_corpus_has_as_many_good_cases_as_bad_ones_nearly() -> None:
    good = sum(case.good for case in CASES)
    assert good >= 30
    assert 0.4 <= good / len(CASES) <= 0.6


def test_models_of_all_cases_fit_into_one_repository() -> None:
    names = [name for case in CASES for name in (case.model, *case.document.get("models", {}))]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_a_config_with_any_line_missing_is_judged_and_breaks_nothing(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path)
    config = folder / "config.pbtxt"
    lines = config.read_text(encoding="utf-8").splitlines()
    for missing in range(len(lines)):
        config.write_text("\n".join(lines[:missing] + lines[missing + 1 :]), encoding="utf-8")
        for finding in lint(folder, Machine(cores=2, gpus=0)).findings:
            assert finding.problem
            assert finding.fix
