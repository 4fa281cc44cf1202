"""Lint reports the errors, warnings and severities that each corpus file expects."""

from __future__ import annotations

from pathlib import Path

import pytest
from trireme.lint import Severity, lint
from trireme.processes.machine import Machine

from tests.lint_corpus.corpus import Case, all_cases

CASES = all_cases()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_lint_reports_the_findings_of_the_case(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path)
    report = lint(folder, Machine(cores=2, gpus=case.machine_gpus))
    findings = "\n".join(map(str, report.findings))
    assert {finding.rule for finding in report.of(Severity.ERROR)} == set(case.rules), findings
    assert {finding.rule for finding in report.of(Severity.WARNING)} >= set(case.warnings), findings
    assert bool(report.of(Severity.NGC_ONLY)) == case.ngc_only, findings
    assert report.passed == case.good


def test_about_half_of_the_corpus_is_good() -> None:
    good = sum(case.good for case in CASES)
    assert good >= 30
    assert 0.4 <= good / len(CASES) <= 0.6


def test_model_names_are_unique_over_all_cases() -> None:
    names = [name for case in CASES for name in (case.model, *case.document.get("models", {}))]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_lint_handles_a_config_with_any_line_missing(case: Case, tmp_path: Path) -> None:
    folder = case.write(tmp_path)
    config = folder / "config.pbtxt"
    lines = config.read_text(encoding="utf-8").splitlines()
    for missing in range(len(lines)):
        config.write_text("\n".join(lines[:missing] + lines[missing + 1 :]), encoding="utf-8")
        for finding in lint(folder, Machine(cores=2, gpus=0)).findings:
            assert finding.problem
            assert finding.fix
