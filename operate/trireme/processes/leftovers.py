"""What a killed ``trireme serve`` leaves: a server that would not end, its stubs, their shared memory."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from trireme.processes.shared_memory import names_a_dead_owner, orphaned_regions

_PROGRAMS = {"tritonserver", "triton_python_backend_stub"}


def find_leftovers() -> list[psutil.Process]:
    """The servers and stubs of this user whose supervisor is dead.

    The name of their regions, which tells the owner, stands on their command line; of no other program is it looked at,
    so that one that only speaks of a region is never taken for one of them.
    """
    return [process for process in psutil.process_iter() if _is_left(process)]


def remove_leftovers(grace_seconds: float = 10.0) -> list[int]:
    """End the processes whose supervisor is dead, and remove the regions of dead owners.

    Args:
        grace_seconds: how long a process may take to end by itself before it is killed.

    Returns:
        The pids that were ended.
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
