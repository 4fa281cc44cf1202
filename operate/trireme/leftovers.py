"""What a killed ``trireme serve`` leaves: a server that would not end, its stubs, their shared memory."""

from __future__ import annotations

import psutil

from trireme.shared_memory import remove_regions, remove_stale_regions

_DEADLINE_SECONDS = 10.0


def remove_leftovers(region_prefix: str) -> list[int]:
    """End the processes of a server whose supervisor is dead, and remove its regions.

    The prefix, which holds a random part, stands on the command line of the server and of each stub, so that nothing
    else is ever taken for one of them.

    Returns:
        The pids that were ended.
    """
    ended = [process for process in psutil.process_iter() if _belongs(process, region_prefix)]
    for process in ended:
        process.terminate()
    _, stubborn = psutil.wait_procs(ended, timeout=_DEADLINE_SECONDS)
    for process in stubborn:
        process.kill()
    psutil.wait_procs(stubborn, timeout=_DEADLINE_SECONDS)
    remove_regions(region_prefix)
    remove_stale_regions()
    return [process.pid for process in ended]


def _belongs(process: psutil.Process, region_prefix: str) -> bool:
    try:
        return any(region_prefix in argument for argument in process.cmdline())
    except psutil.Error:
        return False
