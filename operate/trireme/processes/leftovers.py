"""Processes and shared memory that a killed ``trireme serve`` left behind."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from trireme.processes.shared_memory import names_a_dead_owner, orphaned_regions

_PROGRAMS = {"tritonserver", "triton_python_backend_stub"}


def find_leftovers() -> list[psutil.Process]:
    """Return servers and stubs of this user whose supervisor is dead.

    The owner is part of the region names on their command line. Only these programs are examined, so that another
    process that merely mentions a region is never matched.
    """
    return [process for process in psutil.process_iter() if _is_left(process)]


def remove_leftovers(grace_seconds: float = 10.0) -> list[int]:
    """End processes whose supervisor is dead, and remove regions of dead owners.

    Args:
        grace_seconds: time between SIGTERM and SIGKILL.

    Returns:
        The pids of the ended processes.
    """
    ended = find_leftovers()
    for process in ended:
        process.terminate()
    _, stubborn = psutil.wait_procs(ended, timeout=grace_seconds)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=grace_seconds)
    for path in orphaned_regions():
        path.unlink(missing_ok=True)
    return [process.pid for process in ended]


def _is_left(process: psutil.Process) -> bool:
    try:
        arguments = process.cmdline()
        return (
            bool(arguments)
            and Path(arguments[0]).name in _PROGRAMS
            and process.uids().effective == os.geteuid()
            and any(names_a_dead_owner(argument) for argument in arguments)
        )
    except psutil.Error:
        return False
