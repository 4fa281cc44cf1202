"""A measured closed loop against one target: rate, latency, and the cost of server and generator."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trireme_loadtest.generate.loops import closed_loop
from trireme_loadtest.generate.targets import Target
from trireme_loadtest.machine import machine_cpu_seconds, usage

WARMUP_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ClosedLoopRun:
    """One measured window.

    Attributes:
        latencies_ms: FP64 [requests], of every request that ended in the window.
        seconds: length of the window.
        server_cpu_seconds, generator_cpu_seconds: CPU time in the window.
        other_cpu_seconds: CPU time of all other processes in the window; well above zero, the machine was not idle.
        rss_mib: of the server at the end.
    """

    latencies_ms: npt.NDArray[np.float64]
    seconds: float
    server_cpu_seconds: float
    generator_cpu_seconds: float
    other_cpu_seconds: float
    rss_mib: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies_ms) / self.seconds

    def percentiles_ms(self) -> dict[str, float]:
        """``p50_ms``, ``p95_ms`` and ``p99_ms``."""
        return {f"p{percent}_ms": float(np.percentile(self.latencies_ms, percent)) for percent in (50, 95, 99)}


async def measure_closed_loop(
    target: Target, bodies: Sequence[bytes], *, concurrency: int, seconds: float, server_pid: int
) -> ClosedLoopRun:
    """Send ``bodies`` repeatedly, ``concurrency`` at a time; measure after the warm-up.

    Args:
        server_pid: root of the server's processes.

    Raises:
        RequestFailed: a request failed; a benchmark with failed requests compares nothing.
    """
    latencies: list[tuple[float, float]] = []
    window_end = time.perf_counter() + WARMUP_SECONDS + seconds

    async def send(number: int) -> None:
        sent = time.perf_counter()
        await target.send(bodies[number % len(bodies)])
        latencies.append((sent, time.perf_counter()))

    def read_meters() -> tuple[float, float, float, float]:
        """CPU-seconds of server, generator and machine, and the current time."""
        return usage(server_pid).cpu_seconds, time.process_time(), machine_cpu_seconds(), time.perf_counter()

    async with target:
        sending = asyncio.create_task(closed_loop(send, concurrency, lambda: time.perf_counter() < window_end))
        await asyncio.sleep(WARMUP_SECONDS)
        server_before, own_before, all_before, began = read_meters()
        await asyncio.sleep(seconds)
        server_after, own_after, all_after, ended = read_meters()
        await sending
    server, own = server_after - server_before, own_after - own_before
    return ClosedLoopRun(
        latencies_ms=np.array([(done - sent) * 1000 for sent, done in latencies if began <= done <= ended]),
        seconds=ended - began,
        server_cpu_seconds=server,
        generator_cpu_seconds=own,
        other_cpu_seconds=max(0.0, all_after - all_before - server - own),
        rss_mib=usage(server_pid).rss_mib,
    )
