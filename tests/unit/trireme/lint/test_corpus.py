"""Every case of the corpus gets the verdict its file asks for, by the rules it names and no others."""

from __future__ import annotations

from pathlib import Path

import pytest
from trireme.lint import Severity, lint
from trireme.machine import Machine

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


def test_the_corpus_is_half_good_and_half_bad() -> None:
    good = sum(case.good for case in CASES)
    assert len(CASES) >= 60
    assert good >= len(CASES) / 3
    assert len({name for case in CASES for name in [case.model, *case.document.get("models", {})]}) >= len(CASES)
