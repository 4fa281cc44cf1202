"""One writer at a time: who changes the repository holds this lock, and a dead owner holds nothing."""

from __future__ import annotations

import getpass
import json
import os
from pathlib import Path
from typing import IO

from trireme.errors import TriremeError
from trireme.file_lock import FileLockedError, take_lock


class RepositoryLockedError(TriremeError):
    """Another command is changing the repository."""

    def __init__(self, verb: str, actor: str, pid: int, age_seconds: float) -> None:
        super().__init__(
            f"'trireme {verb}' of {actor} (pid {pid}) has been changing the repository for {age_seconds:.0f} s; "
            "wait for it, or end it: what it began is then finished or undone by the next command"
        )


def release_lock(path: Path, verb: str, wait_seconds: float = 0.0) -> IO[str]:
    """The lock, to be held in a ``with`` statement, after waiting for another owner up to ``wait_seconds``.

    Raises:
        RepositoryLockedError: another command holds it; names its verb, actor, pid and how long it has run.
    """
    owner = {"verb": verb, "actor": getpass.getuser(), "pid": os.getpid()}
    try:
        return take_lock(path, json.dumps(owner), wait_seconds)
    except FileLockedError as error:
        # A new owner may not have written its name yet.
        known = json.loads(error.owner or '{"verb": "...", "actor": "someone", "pid": 0}')
        raise RepositoryLockedError(known["verb"], known["actor"], known["pid"], error.age_seconds) from None
