"""``trireme lint``: check models before a server loads them."""

from __future__ import annotations

import os
from pathlib import Path

import click

from trireme.files import json_text
from trireme.lint import LintReport, Severity
from trireme.lint import lint as lint_path
from trireme.settings import Settings


@click.command()
@click.argument("path", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def lint(path: Path | None, as_json: bool) -> int:
    """Check the model repository, model folder or config file at PATH; by default the project's repository.

    Exit code 1 if a model has an error, that is, if Triton or trireme serve would reject it. docs/lint.md describes
    the rules.
    """
    report = lint_path(path or Path(os.path.relpath(Settings.from_environment().repository_dir)))
    if as_json:
        document = {
            "passed": report.passed,
            "models": list(report.models),
            "findings": [finding.as_json() for finding in report.findings],
        }
        click.echo(json_text(document))
    else:
        for finding in report.findings:
            click.echo(str(finding))
        click.echo(_summary(report))
    return 0 if report.passed else 1


def _summary(report: LintReport) -> str:
    counts = (f"{len(report.of(severity))} {severity.value}" for severity in Severity)
    return f"{len(report.models)} models: {', '.join(counts)}"
