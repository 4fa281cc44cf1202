"""The append-only log of releases: who did what and when, with which hashes, and the outcome.

One JSON object per line. Three kinds of entries share the ``release`` id:

    begin   verb, subject, actor, note, the complete plan, the callers it moves, and the versions they get
    step    index of the next step (written and flushed before it runs)
    end     outcome: done, undone or failed, with the reason
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from trireme.documents import parse_json_of
from trireme.release.callers import Move, ServedVersions


class Outcome(str, Enum):
    """How a release ended."""

    DONE = "done"
    UNDONE = "undone"
    # Carried out, but callers do not get the expected versions.
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRelease:
    """A release as it is recorded before its first step.

    Attributes:
        verb: publish, canary, promote, rollback, prune.
        subject: the released model or variant.
        actor: who ran the command.
        note: why, in the actor's words.
        steps: the plan, each step as its JSON form.
        commit_index: from this step on a cut-off release is finished, before it is undone.
        moves: callers who get another version by it.
        expected: the versions that callers are to get afterwards, by whom they call; empty where there is no look.
        remarks: what the plan says besides its steps.
    """

    verb: str
    subject: str
    actor: str
    note: str
    steps: tuple[Mapping[str, Any], ...]
    commit_index: int
    moves: tuple[Move, ...] = ()
    expected: Mapping[str, ServedVersions] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Release(PlannedRelease):
    """One journaled release.

    Attributes:
        identity: unique; sorts by time.
        started_at: seconds since the epoch.
        reached: index of the last step that was begun; -1 for none.
        outcome: how it ended; ``None`` where it was cut off or is running.
        reason: why it ended so, or what callers get since.
        reached_at, ended_at: when the last step was begun, and when the release ended; seconds since the epoch.
    """

    identity: str
    started_at: float
    reached: int = -1
    outcome: Outcome | None = None
    reason: str = ""
    reached_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begin(PlannedRelease):
    release: str
    entry: Literal["begin"] = "begin"
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    release: str
    entry: Literal["step"] = "step"
    at: float
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    release: str
    entry: Literal["end"] = "end"
    at: float
    outcome: Outcome
    reason: str


_Entry = _Begin | _Step | _End
_ENTRY: Any = Annotated[_Entry, Field(discriminator="entry")]


class Journal:
    """The log in one file. Only the holder of the release lock writes.

    Example:
        >>> journal = Journal(settings.state_dir / "releases" / "journal.jsonl")
        >>> [release.verb for release in journal.releases()]
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def begin(self, planned: PlannedRelease) -> str:
        """Record a plan before its first step; gives the release's identity."""
        identity = f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{secrets.token_hex(3)}"
        self._append(_Begin(release=identity, at=time.time(), **_fields(planned)))
        return identity

    def step(self, identity: str, index: int) -> None:
        """Record that a step is next."""
        self._append(_Step(release=identity, at=time.time(), index=index))

    def end(self, identity: str, outcome: Outcome, reason: str = "") -> None:
        """Record how a release ended."""
        self._append(_End(release=identity, at=time.time(), outcome=outcome, reason=reason))

    def releases(self) -> list[Release]:
        """Every release, oldest first.

        Raises:
            ConfigError: a line other than the last is not a journal entry.
        """
        found: dict[str, Release] = {}
        for entry in self._entries():
            if isinstance(entry, _Begin):
                found[entry.release] = Release(identity=entry.release, started_at=entry.at, **_fields(entry))
                continue
            release = found[entry.release]
            if isinstance(entry, _Step):
                found[entry.release] = replace(release, reached=entry.index, reached_at=entry.at)
            else:
                found[entry.release] = replace(release, outcome=entry.outcome, reason=entry.reason, ended_at=entry.at)
        return list(found.values())

    def unfinished(self) -> list[Release]:
        """Releases that are running or were interrupted, oldest first."""
        return [release for release in self.releases() if release.outcome is None]

    def _entries(self) -> Iterator[_Entry]:
        try:
            lines = self._path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return
        # Text after the last newline is a torn entry: its writer was killed before it did anything else.
        for number, line in enumerate(lines[:-1], start=1):
            if line:
                yield parse_json_of(self._path, _ENTRY, line, line=number)

    def _append(self, entry: _Entry) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            # A torn last line is removed, so that the new entry starts on a new line.
            content = self._path.read_bytes()
            if content and not content.endswith(b"\n"):
                file.truncate(content.rfind(b"\n") + 1)
            file.write(json.dumps(asdict(entry), separators=(",", ":")).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())


def _fields(planned: PlannedRelease) -> dict[str, Any]:
    return {field.name: getattr(planned, field.name) for field in fields(PlannedRelease)}
