"""The result of one check of ``trireme doctor``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class CheckStatus(str, Enum):
    """``FAIL`` prevents serving; ``WARN`` costs speed, space or requests."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """A row of the table that ``trireme doctor`` prints.

    Attributes:
        found: the finding, with the numbers that it is based on.
        fix: the command or step that fixes it; empty if ok.
    """

    subject: str
    status: CheckStatus
    found: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.status.value:5} {self.subject:22} {self.found}" + (f"; {self.fix}" if self.fix else "")

    def as_json(self) -> dict[str, Any]:
        return {"subject": self.subject, "status": self.status.value, "found": self.found, "fix": self.fix}


def ok(subject: str, found: str) -> Check:
    return Check(subject, CheckStatus.OK, found)


def warn(subject: str, found: str, fix: str) -> Check:
    return Check(subject, CheckStatus.WARN, found, fix)


def fail(subject: str, found: str, fix: str) -> Check:
    return Check(subject, CheckStatus.FAIL, found, fix)


def mebibytes(count: int) -> str:
    """``count`` bytes as text in MiB, rounded up."""
    return f"{-(-count // 1024**2)} MiB"
