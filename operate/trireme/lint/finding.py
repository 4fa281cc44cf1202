"""What lint says: findings with a place and a fix, and the report they make."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from trireme.repository.config_source import Place, nearest


class Severity(str, Enum):
    """How much a finding weighs.

    ``ERROR``: Triton refuses the model, on this machine at least. ``NGC_ONLY``: the embedded server refuses it, NGC's
    image does not. ``WARNING``: it loads, and does not do what its author most likely wants.
    """

    ERROR = "error"
    NGC_ONLY = "ngc-only"
    WARNING = "warning"


@dataclass(frozen=True, slots=True)
class Complaint:
    """What a rule found, before the runner adds where and by which rule.

    Attributes:
        at: the path of a field in the config, as ``ModelConfig.place`` takes it.
        file: the file it is about, where that is not the config.
    """

    severity: Severity
    problem: str
    fix: str
    at: tuple[str | int, ...] = ()
    file: Path | None = None


def error(problem: str, fix: str, *at: str | int, file: Path | None = None) -> Complaint:
    return Complaint(Severity.ERROR, problem, fix, at, file)


def ngc_only(problem: str, fix: str, *at: str | int) -> Complaint:
    return Complaint(Severity.NGC_ONLY, f"{problem}; valid on NGC", fix, at)


def warning(problem: str, fix: str, *at: str | int, file: Path | None = None) -> Complaint:
    return Complaint(Severity.WARNING, problem, fix, at, file)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The fix for a name that is not known: the nearest that is, or all there are."""
    names = sorted(known)
    meant = nearest(name, names)
    return f"write '{meant}'" if meant else f"one of {', '.join(names) or 'none'}"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one model: where it is, what is wrong, and what to do.

    ``place`` is absent where the finding is about a whole file or folder. ``rule`` is an entry of docs/lint.md.
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
    """All findings about the models that were asked for, in the order of models and places."""

    models: tuple[str, ...]
    findings: tuple[Finding, ...]

    def of(self, severity: Severity) -> list[Finding]:
        return [finding for finding in self.findings if finding.severity is severity]

    @property
    def passed(self) -> bool:
        """Whether no finding is an error."""
        return not self.of(Severity.ERROR)
