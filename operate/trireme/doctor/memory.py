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

# Regions of Python stubs: this project's servers name them by their owner, any other Triton by its default.
_REGION_NAMES = ("trireme_*", "triton_python_backend_shm_region_*")
# Room for logs and for staging one more version of a model.
_LEAST_DISK_BYTES = 512 * 1024**2


def shared_memory(
    configs: Iterable[ModelConfig], machine: Machine, shm_dir: Path = SHM_DIR, free_bytes: int | None = None
) -> Iterator[Check]:
    """``/dev/shm`` holds the regions of all instances; ``shared_memory_bytes`` has the formula.

    ``free_bytes`` is what is free there; asked of the system where it is not given.
    """
    needed = shared_memory_bytes(configs, machine)
    used = _live_regions_bytes(shm_dir)
    free = shutil.disk_usage(shm_dir).free if free_bytes is None else free_bytes
    # What running servers hold already is part of the need, not on top of it.
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
    """No dead server has left regions of this user's behind."""
    stale = find_stale_regions(shm_dir)
    if not stale:
        yield ok("stale regions", "none")
        return
    size = sum(path.stat().st_size for path in stale)
    found = f"{len(stale)} of dead servers hold {mebibytes(size)}"
    remove = f"rm -f {' '.join(map(str, stale))}"
    # A stub does not react to SIGTERM.
    if pids := " ".join(str(process.pid) for process in find_leftovers()):
        yield warn("stale regions", f"{found}; processes left of them: {pids}", f"kill -9 {pids}; {remove}")
    else:
        yield warn("stale regions", found, remove)


def find_stale_regions(shm_dir: Path = SHM_DIR) -> Sequence[Path]:
    """Regions of this user that no process has mapped, or only processes that outlived the owner."""
    regions = [
        path
        for name in _REGION_NAMES
        for path, stat in _stats(sorted(shm_dir.glob(name))).items()
        if stat.st_uid == os.geteuid()
    ]
    # A process of another user cannot be asked, and cannot have mapped a region of this user.
    mapped = _mapped(str(shm_dir)) if regions else set()
    orphaned = orphaned_regions(shm_dir)
    return [path for path in regions if str(path) not in mapped or path in orphaned]


def disk(settings_dir: Path, free_bytes: int | None = None) -> Iterator[Check]:
    """There is room for logs and for one more version of a model."""
    free = shutil.disk_usage(settings_dir).free if free_bytes is None else free_bytes
    found = f"{mebibytes(free)} free at {settings_dir}, {mebibytes(_LEAST_DISK_BYTES)} needed"
    if free >= _LEAST_DISK_BYTES:
        yield ok("disk", found)
    else:
        yield fail("disk", found, "free some room there")


def _live_regions_bytes(shm_dir: Path) -> int:
    mapped = _mapped(str(shm_dir))
    stats = _stats(shm_dir.glob(_REGION_NAMES[0]))
    return sum(stat.st_size for path, stat in stats.items() if str(path) in mapped)


def _stats(paths: Iterable[Path]) -> Mapping[Path, os.stat_result]:
    """Of the files that are still there: servers that start and end make and remove regions all the while."""
    found = {}
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat()
    return found


def _mapped(folder: str) -> set[str]:
    """The files below ``folder`` that processes have mapped, of the processes that this user may look into."""
    found: set[str] = set()
    for pid in psutil.pids():
        # psutil's memory_maps() reads smaps, which walks each page of the process.
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
            # The sixth field is the path: address, rights, offset, device, inode, path.
            paths = (fields[5] for line in maps.splitlines() if len(fields := line.split(maxsplit=5)) == 6)
            found.update(path for path in paths if path.startswith(folder))
    return found
