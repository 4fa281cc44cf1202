"""A file lock: the kernel releases it when its owner dies."""

from __future__ import annotations

import contextlib
import fcntl
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

_POLL_SECONDS = 0.1


class FileLockedError(Exception):
    """Another process holds the lock: ``owner`` is the text that it wrote, ``age_seconds`` how long it holds it."""

    def __init__(self, path: Path) -> None:
        super().__init__(f"{path} is locked")
        self.owner = path.read_text(encoding="utf-8")
        self.age_seconds = time.time() - path.stat().st_mtime


def take_lock(
    path: Path, owner: str = "", wait_seconds: float = math.inf, waiting: Callable[[], None] = lambda: None
) -> IO[str]:
    """Take the lock at ``path``; use in a ``with`` statement, which releases it.

    Args:
        owner: text written into the file, for processes that find it locked.
        wait_seconds: how long to wait for another owner.
        waiting: called before waiting for another owner.

    Raises:
        FileLockedError: another process still holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a+", encoding="utf-8"))
        if not _locked(file, fcntl.LOCK_EX):
            waiting()
            deadline = time.monotonic() + wait_seconds
            while not _locked(file, fcntl.LOCK_EX):
                if time.monotonic() >= deadline:
                    raise FileLockedError(path)
                time.sleep(_POLL_SECONDS)
        file.truncate(0)
        file.write(owner)
        file.flush()
        stack.pop_all()
        return file


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at ``path``."""
    try:
        with path.open(encoding="utf-8") as file:
            return not _locked(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


def _locked(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
