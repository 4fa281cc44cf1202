"""Static checks of a model repository, before a server loads it. docs/lint.md lists the rules."""

from trireme.lint.check import lint
from trireme.lint.finding import Finding, LintReport, Severity

__all__ = ["Finding", "LintReport", "Severity", "lint"]
