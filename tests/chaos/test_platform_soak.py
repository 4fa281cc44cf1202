"""Short soak test: under traffic at 60 % of the stack's capacity, memory, open files and shared memory stay constant.

``TRIREME_SOAK_SECONDS`` is the duration; ``make soak`` takes 30 minutes.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping

import psutil
import pytest
from trireme.processes.shared_memory import SHM_DIR
from trireme_loadtest.generate.loops import closed_loop
from trireme_loadtest.generate.targets import connected

from tests.chaos.platform_stack import PlatformStack
from tests.chaos.report import ChaosReport
from tests.chaos.scenario import DEADLINE_SECONDS, echo_requests, scenario

_SECONDS = float(os.environ.get("TRIREME_SOAK_SECONDS", "20"))
_SHARE_OF_CAPACITY = 0.6
_CAPACITY_SECONDS = 4.0
_CAPACITY_CONCURRENCY = 16
# More than callers open at this rate of requests.
_CONNECTIONS = 32
_MIB = 1024**2


@pytest.mark.slow
def test_memory_files_and_regions_stay_constant(platform: PlatformStack, report: ChaosReport) -> None:
    per_second = _SHARE_OF_CAPACITY * asyncio.run(_capacity(platform))
    fault = f"none for {_SECONDS:.0f} s, {per_second:.0f} requests per second"
    with scenario(platform, report, fault, per_second=per_second) as running:
        # Caches and pools grow during warm-up.
        time.sleep(min(_SECONDS / 4, 60.0))
        before = _footprint(platform)
        time.sleep(_SECONDS)
        after = _footprint(platform)
        running.facts.update(before=before, after=after)
    assert after["processes"] == before["processes"]
    assert after["shm_bytes"] == before["shm_bytes"]
    # A connection has two ends in Envoy and one in a server.
    assert after["files"] - before["files"] <= 3 * _CONNECTIONS
    assert after["rss_mib"] - before["rss_mib"] < max(0.05 * before["rss_mib"], 30.0)


async def _capacity(platform: PlatformStack) -> float:
    """Requests per second in a closed loop."""
    requests, end = echo_requests(platform), time.monotonic() + _CAPACITY_SECONDS
    answered = 0
    async with connected(requests, DEADLINE_SECONDS) as targets:

        async def send(number: int) -> None:
            nonlocal answered
            kind = number % len(requests)
            await targets[kind].send(requests[kind].bodies[0])
            answered += 1

        await closed_loop(send, _CAPACITY_CONCURRENCY, lambda: time.monotonic() < end)
    return answered / _CAPACITY_SECONDS


def _footprint(platform: PlatformStack) -> Mapping[str, float]:
    processes = [process for process in platform.processes() if process.status() != psutil.STATUS_ZOMBIE]
    assert platform.process is not None
    regions = list(SHM_DIR.glob(f"trireme_{platform.process.pid}_*"))
    return {
        "processes": len(processes),
        "rss_mib": round(sum(process.memory_info().rss for process in processes) / _MIB, 1),
        "files": sum(process.num_fds() for process in processes),
        "shm_bytes": sum(region.stat().st_size for region in regions),
    }
