"""One writer at a time: who changes the repository holds this lock, and a dead owner holds nothing."""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from trireme.errors import TriremeError


class LockedError(TriremeError):
    """Another command is changing the repository."""

    def __init__(self, verb: str, actor: str, pid: int, age_seconds: float) -> None:
        super().__init__(
            f"'trireme {verb}' of {actor} (pid {pid}) has been changing the repository for {age_seconds:.0f} s; "
            "wait for it, or end it: what it began is then finished or undone by the next command"
        )


@contextmanager
def release_lock(path: Path, verb: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock for the block, after waiting for another owner up to ``wait_seconds``.

    The kernel drops it when its owner dies, so it never outlives one.

    Raises:
        LockedError: another command holds it; names its verb, actor, pid and how long it has run.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_seconds
        while not _took(file):
            if time.monotonic() >= deadline:
                raise _locked_by(path)
            time.sleep(0.1)
        file.truncate(0)
        json.dump({"verb": verb, "actor": getpass.getuser(), "pid": os.getpid(), "since": time.time()}, file)
        file.flush()
        yield


def _took(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_by(path: Path) -> LockedError:
    try:
        owner = json.loads(path.read_text(encoding="utf-8"))
        return LockedError(owner["verb"], owner["actor"], owner["pid"], time.time() - owner["since"])
    except (ValueError, KeyError):
        # It has the lock, but has not yet said who it is.
        return LockedError("...", "someone", 0, 0.0)
