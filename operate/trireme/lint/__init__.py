"""Judges a model repository before any server sees it. The rules are told in docs/lint.md."""

from trireme.lint.check import lint
from trireme.lint.finding import Finding, LintReport, Severity

__all__ = ["Finding", "LintReport", "Severity", "lint"]
