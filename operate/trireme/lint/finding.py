"""Findings, each with a place and a fix, and the report that collects them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from trireme.repository.config_source import Place, nearest


class Severity(str, Enum):
    """Severity of a finding.

    ``ERROR``: Triton rejects the model, at least on this machine. ``NGC_ONLY``: the embedded server rejects it, NGC's
    image accepts it. ``WARNING``: the model loads, but probably not as intended.
    """

    ERROR = "error"
    NGC_ONLY = "ngc-only"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Complaint:
    """A problem that a rule reports; the runner adds the file, the line and the rule's name.

    Attributes:
        at: path of a field in the config, see ``ModelConfig.place``.
        file: the affected file, if it is not the config.
    """

    severity: Severity
    problem: str
    fix: str
    at: tuple[str | int, ...] = ()
    file: Path | None = None


def error(problem: str, fix: str, *at: str | int, file: Path | None = None) -> Complaint:
    return Complaint(Severity.ERROR, problem, fix, at, file)


def ngc_only(problem: str, fix: str, *at: str | int) -> Complaint:
    return Complaint(Severity.NGC_ONLY, f"{problem} (valid on NGC)", fix, at)


def warning(problem: str, fix: str, *at: str | int, file: Path | None = None) -> Complaint:
    return Complaint(Severity.WARNING, problem, fix, at, file)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the nearest known name, or the list of known names."""
    names = sorted(known)
    close = nearest(name, names)
    return f"write '{close}'" if close else f"available: {', '.join(names) or 'none'}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem of one model: the place, the problem and the fix.

    ``place`` is None if the finding is about a file or folder as a whole. ``rule`` is an entry of docs/lint.md.
    """

    severity: Severity
    rule: str
    model: str
    path: Path
    place: Place | None
    problem: str
    fix: str

    def __str__(self) -> str:
        where = f"{self.path}:{self.place.line}:{self.place.column}" if self.place else f"{self.path}"
        return f"{where}: {self.severity.value}: {self.problem}; {self.fix} [{self.rule}]"

    def as_json(self) -> dict[str, Any]:
        return {
            "severity": self.severity.value,
            "rule": self.rule,
            "model": self.model,
            "path": str(self.path),
            "line": self.place.line if self.place else None,
            "column": self.place.column if self.place else None,
            "problem": self.problem,
            "fix": self.fix,
        }


@dataclass(frozen=True, slots=True)
class LintReport:
    """All findings about the checked models, in the order of models and rules."""

    models: tuple[str, ...]
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity is severity]

    @property
    def passed(self) -> bool:
        """True if no finding is an error."""
        return not self.of(Severity.ERROR)
