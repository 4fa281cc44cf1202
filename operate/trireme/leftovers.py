"""What a killed ``trireme serve`` leaves: a server that would not end, its stubs, their shared memory."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from trireme.shared_memory import names_a_dead_owner, orphaned_regions

_DEADLINE_SECONDS = 10.0
_PROGRAMS = {"tritonserver", "triton_python_backend_stub"}


def find_leftovers() -> list[psutil.Process]:
    """The servers and stubs of this user whose supervisor is dead.

    The name of their regions, which tells the owner, stands on their command line; of no other program is it looked at,
    so that one that only speaks of a region is never taken for one of them.
    """
    return [process for process in psutil.process_iter() if _is_left(process)]


def remove_leftovers() -> list[int]:
    """End the processes whose supervisor is dead, and remove the regions of dead owners.

    Returns:
        The pids that were ended.
    """
    ended = find_leftovers()
    for process in ended:
        process.terminate()
    _, stubborn = psutil.wait_procs(ended, timeout=_DEADLINE_SECONDS)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=_DEADLINE_SECONDS)
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
