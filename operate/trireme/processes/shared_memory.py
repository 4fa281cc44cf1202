"""Shared memory regions between Triton and its Python stubs.

A server that dies leaves its regions in ``/dev/shm``. Their names contain the owning process, so that a later start can
distinguish orphaned regions from those in use:

    /dev/shm/trireme_<owner pid>_<owner start time>_<random>_<suffix by Triton>
"""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

import psutil

SHM_DIR = Path("/dev/shm")

_OWNED = re.compile(r"trireme_(?P<pid>\d+)_(?P<start>\d+)_")


def new_region_prefix() -> str:
    """Return a name prefix for the regions of one server, owned by this process."""
    pid = os.getpid()
    return f"trireme_{pid}_{_start_centiseconds(pid)}_{secrets.token_hex(4)}_"


def remove_regions(prefix: str) -> None:
    """Remove the regions of a stopped server."""
    for path in SHM_DIR.glob(f"{prefix}*"):
        path.unlink(missing_ok=True)


def orphaned_regions(shm_dir: Path = SHM_DIR) -> list[Path]:
    """Regions of this user whose owner is dead, sorted by name; other processes may still map them."""
    return [path for path in sorted(shm_dir.glob("trireme_*")) if names_a_dead_owner(path.name) and _is_own(path)]


def _is_own(path: Path) -> bool:
    try:
        return path.stat().st_uid == os.geteuid()
    except FileNotFoundError:
        return False


def names_a_dead_owner(text: str) -> bool:
    """Whether ``text`` contains the name of a region whose owner is dead."""
    owner = _OWNED.search(text)
    if owner is None:
        return False
    pid = int(owner["pid"])
    # The start time distinguishes the owner from a reused pid.
    return not psutil.pid_exists(pid) or _start_centiseconds(pid) != int(owner["start"])


def _start_centiseconds(pid: int) -> int:
    """Start time of a process in kernel ticks since boot, independent of clock changes; 0 if it does not exist."""
    try:
        # The command name, in parentheses, may contain spaces.
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return 0
