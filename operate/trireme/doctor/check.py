"""One thing that doctor looked at, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class Status(str, Enum):
    """``FAIL`` stops serving, ``WARN`` does not, but costs speed, room or an answer later."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """A row of doctor's table.

    Attributes:
        found: what is there, with the numbers it was judged by.
        mend: the command or step that makes it right; empty when it is.
    """

    subject: str
    status: Status
    found: str
    mend: str = ""

    def __str__(self) -> str:
        return f"{self.status.value:5} {self.subject:22} {self.found}" + (f"; {self.mend}" if self.mend else "")

    def as_json(self) -> dict[str, Any]:
        return {"subject": self.subject, "status": self.status.value, "found": self.found, "mend": self.mend}


def ok(subject: str, found: str) -> Check:
    return Check(subject, Status.OK, found)


def warn(subject: str, found: str, mend: str) -> Check:
    return Check(subject, Status.WARN, found, mend)


def fail(subject: str, found: str, mend: str) -> Check:
    return Check(subject, Status.FAIL, found, mend)


def mebibytes(count: int) -> str:
    """``count`` bytes for a person: whole MiB, rounded up."""
    return f"{-(-count // 1024**2)} MiB"
