"""One export at a time in a checkout."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from trireme.errors import TriremeError

_DEADLINE_SECONDS = 1800


@contextmanager
def one_export_at_a_time(state_dir: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold the export lock; ``waiting`` is called once when another export has it. It is freed when its holder dies.

    Raises:
        TriremeError: the other export held it for half an hour.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    path = state_dir / "export.lock"
    with path.open("w") as lock:
        if not _locked(lock.fileno()):
            waiting()
            deadline = time.monotonic() + _DEADLINE_SECONDS
            while not _locked(lock.fileno()):
                if time.monotonic() > deadline:
                    raise TriremeError(
                        f"another export still holds {path}; see what it does, end it and run this again"
                    )
                time.sleep(0.2)
        yield


def _locked(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
