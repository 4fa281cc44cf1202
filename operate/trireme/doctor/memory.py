"""Shared memory and disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

from trireme.doctor.check import Check, fail, mebibytes, ok, warn
from trireme.processes.leftovers import find_leftovers
from trireme.processes.machine import Machine
from trireme.processes.shared_memory import SHM_DIR, orphaned_regions
from trireme.repository.model_config import ModelConfig
from trireme.repository.resource_requirements import shared_memory_bytes

# Regions of Python stubs: with the owner in their name (this project's servers), or Triton's default name.
_REGION_NAMES = ("trireme_*", "triton_python_backend_shm_region_*")
# Space for logs and for staging another version of a model.
_LEAST_DISK_BYTES = 512 * 1024**2


def shared_memory(
    configs: Iterable[ModelConfig], machine: Machine, shm_dir: Path = SHM_DIR, free_bytes: int | None = None
) -> Iterator[Check]:
    """``/dev/shm`` has enough space for the regions of all instances; see ``shared_memory_bytes`` for the formula.

    Args:
        free_bytes: free space in ``shm_dir``; default: queried from the system.
    """
    needed = shared_memory_bytes(configs, machine)
    used = _live_regions_bytes(shm_dir)
    free = shutil.disk_usage(shm_dir).free if free_bytes is None else free_bytes
    # Regions of running servers are part of the required space.
    present = free + used
    found = f"{mebibytes(needed)} needed by the models' instances, {mebibytes(present)} present in {shm_dir}"
    if present >= needed:
        yield ok("shared memory", found)
    else:
        size = mebibytes(needed * 5 // 4).replace(" MiB", "m")
        yield fail(
            "shared memory",
            found,
            f"mount -o remount,size={size} {shm_dir}, or shm_size: {size} in docker-compose.yml",
        )


def stale_regions(shm_dir: Path = SHM_DIR) -> Iterator[Check]:
    """There are no regions of dead servers of this user."""
    stale = find_stale_regions(shm_dir)
    if not stale:
        yield ok("stale regions", "none")
        return
    size = sum(path.stat().st_size for path in stale)
    found = f"{len(stale)} of dead servers use {mebibytes(size)}"
    remove = f"rm -f {' '.join(map(str, stale))}"
    # A stub does not react to SIGTERM.
    if pids := " ".join(str(process.pid) for process in find_leftovers()):
        yield warn("stale regions", f"{found}; remaining processes: {pids}", f"kill -9 {pids}; {remove}")
    else:
        yield warn("stale regions", found, remove)


def find_stale_regions(shm_dir: Path = SHM_DIR) -> Sequence[Path]:
    """Regions of this user that no process maps, or whose owner is dead."""
    regions = [
        path
        for name in _REGION_NAMES
        for path, stat in _stats(sorted(shm_dir.glob(name))).items()
        if stat.st_uid == os.geteuid()
    ]
    # Processes of other users cannot be inspected, but cannot map a region of this user either.
    mapped = _mapped(str(shm_dir)) if regions else set()
    orphaned = orphaned_regions(shm_dir)
    return [path for path in regions if str(path) not in mapped or path in orphaned]


def disk(settings_dir: Path, free_bytes: int | None = None) -> Iterator[Check]:
    """There is space for logs and for another version of a model."""
    free = shutil.disk_usage(settings_dir).free if free_bytes is None else free_bytes
    found = f"{mebibytes(free)} free at {settings_dir}, {mebibytes(_LEAST_DISK_BYTES)} needed"
    if free >= _LEAST_DISK_BYTES:
        yield ok("disk", found)
    else:
        yield fail("disk", found, "free some space there")


def _live_regions_bytes(shm_dir: Path) -> int:
    mapped = _mapped(str(shm_dir))
    stats = _stats(shm_dir.glob(_REGION_NAMES[0]))
    return sum(stat.st_size for path, stat in stats.items() if str(path) in mapped)


def _stats(paths: Iterable[Path]) -> Mapping[Path, os.stat_result]:
    """``stat`` of the files that still exist: servers create and remove regions at any time."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat()
    return found


def _mapped(folder: str) -> set[str]:
    """The files below ``folder`` that are mapped by processes which this user may inspect."""
    found: set[str] = set()
    for pid in psutil.pids():
        # Not psutil's memory_maps(): it reads smaps, which walks all pages of the process.
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
            # Fields: address, permissions, offset, device, inode, path.
            paths = (fields[5] for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6)
            found.update(path for path in paths if path.startswith(folder))
    return found
