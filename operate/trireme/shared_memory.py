"""The shared memory regions through which Triton talks with its Python stubs.

A server that dies leaves its regions in ``/dev/shm``. Ours carry the process that owns them in their name, so that a
later start can tell those of the dead from those in use:

    /dev/shm/trireme_<owner pid>_<owner start time>_<random>_<what Triton adds>
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path

import psutil

SHM_DIR = Path("/dev/shm")

_OWNED = re.compile(r"trireme_(?P<pid>\d+)_(?P<start>\d+)_")


def new_region_prefix() -> str:
    """A name for the regions of one server, owned by this process."""
    pid = os.getpid()
    return f"trireme_{pid}_{_start_centiseconds(pid)}_{secrets.token_hex(4)}_"


def remove_regions(prefix: str) -> None:
    """Remove the regions of a server that has ended."""
    for path in SHM_DIR.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def stale_regions() -> list[Path]:
    """Regions whose owner is dead and which no process of this user has mapped."""
    orphaned = [path for path in SHM_DIR.glob("trireme_*") if _is_orphaned(path)]
    mapped = set(_mapped_paths()) if orphaned else set()
    return [path for path in orphaned if str(path) not in mapped]


def remove_stale_regions() -> None:
    """Remove what servers of dead owners left."""
    for path in stale_regions():
        path.unlink(missing_ok=True)


def _is_orphaned(path: Path) -> bool:
    owner = _OWNED.match(path.name)
    if owner is None:
        return False
    pid = int(owner["pid"])
    # The start time tells a reused pid from the owner.
    return not psutil.pid_exists(pid) or _start_centiseconds(pid) != int(owner["start"])


def _start_centiseconds(pid: int) -> int:
    """Start time of a process in kernel ticks since boot, which no clock adjustment moves; 0: no such process."""
    try:
        # The command name, in parentheses, may hold spaces.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0


def _mapped_paths() -> Iterator[str]:
    for process in psutil.process_iter():
        try:
            yield from (region.path for region in process.memory_maps() if region.path.startswith(str(SHM_DIR)))
        except psutil.Error:
            # Gone by now, or another user's, who cannot have mapped a region of this user.
            continue
