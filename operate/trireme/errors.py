"""The errors that this project raises on purpose. The command line prints only their message.

TriremeError
├── ConfigError        a hand-written file is invalid: file, line, problem, fix
├── NotFoundError      a named object does not exist: lists the existing ones
├── SetupError         the machine lacks a requirement: the command that fixes it
├── ServerError        a server process failed (a failed request is a ClientError of trireme_client)
└── GateError          a measurement missed its threshold: both numbers
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path


class TriremeError(Exception):
    """An error whose message is one sentence: where, what is wrong, what to do."""


class ConfigError(TriremeError):
    """A hand-written file is invalid at a known place."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None, column: int | None = None) -> None:
        place = ":".join(str(part) for part in (path, line, column) if part is not None)
        super().__init__(f"{place}: {problem}")
        self.path, self.problem, self.line, self.column = path, problem, line, column


class NotFoundError(TriremeError):
    """A named object does not exist; the message lists the existing names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(f"no {kind} named {name!r}; available: {listed}")
        self.kind, self.name = kind, name


class SetupError(TriremeError):
    """The machine lacks a requirement; ``fix`` is the command or step that provides it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; to fix it: {fix}")
        self.problem, self.fix = problem, fix


class ServerError(TriremeError):
    """A server did not start, or died."""


class GateError(TriremeError):
    """A measurement missed its threshold; nothing was written."""

    def __init__(self, gate: str, measured: float, threshold: float, subject: str) -> None:
        super().__init__(f"{subject}: {gate} gate failed: measured {measured:.6g}, threshold {threshold:.6g}")
        self.gate, self.measured, self.threshold = gate, measured, threshold


def expected_errors() -> tuple[type[Exception], ...]:
    """The errors raised on purpose, here and in the client."""
    # Imported on failure only: it imports gRPC, and `trireme --help` must start fast.
    from trireme_client import ClientError

    return TriremeError, ClientError


def describe(error: Exception) -> str:
    """One sentence for a log; includes type and place if the error is unexpected."""
    if isinstance(error, (*expected_errors(), OSError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{place}: {error}"
