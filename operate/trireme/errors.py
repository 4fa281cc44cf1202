"""Every error this project raises on purpose. The command line prints the sentence and nothing else.

TriremeError
├── ConfigError        a file a person wrote is wrong: says file, line, what and the fix
├── NotFoundError      a thing that was named does not exist: says what does
├── SetupError         something the machine must have is missing: says the command that fixes it
├── ServerError        a server process failed; what a request to one ends with is a ClientError of trireme_client
└── GateError          a measured number missed its threshold: says both
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable
from pathlib import Path


class TriremeError(Exception):
    """One clear sentence for the person at the command line: what is wrong, where, what to do."""


class ConfigError(TriremeError):
    """A hand-written file is wrong at a known place."""

    def __init__(self, path: Path, problem: str, *, line: int | None = None, column: int | None = None) -> None:
        place = ":".join(str(part) for part in (path, line, column) if part is not None)
        super().__init__(f"{place}: {problem}")
        self.path, self.problem, self.line, self.column = path, problem, line, column


class NotFoundError(TriremeError):
    """A named thing does not exist; the sentence lists the names that do."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        listed = ", ".join(sorted(known)) or "none"
        super().__init__(f"no {kind} named {name!r}; there is: {listed}")
        self.kind, self.name = kind, name


class SetupError(TriremeError):
    """The machine lacks something; ``fix`` is the command that brings it."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}; to fix it: {fix}")
        self.problem, self.fix = problem, fix


class ServerError(TriremeError):
    """A server did not start, or died."""


class GateError(TriremeError):
    """A measured quality missed its threshold, so nothing was written."""

    def __init__(self, gate: str, measured: float, threshold: float, subject: str) -> None:
        super().__init__(f"{subject}: {gate} gate failed: measured {measured:.6g}, threshold {threshold:.6g}")
        self.gate, self.measured, self.threshold = gate, measured, threshold


def expected_errors() -> tuple[type[Exception], ...]:
    """What is raised on purpose, here and in the client."""
    # Imported only where something has failed: it brings gRPC, and `trireme --help` starts fast.
    from trireme_client import ClientError

    return TriremeError, ClientError


def describe(error: Exception) -> str:
    """One sentence for a log: of an error that nobody expected its type and place as well."""
    if isinstance(error, (*expected_errors(), OSError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"unexpected {type(error).__name__}{place}: {error}"
