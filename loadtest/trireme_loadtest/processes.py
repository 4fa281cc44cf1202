"""What a tree of processes costs: CPU time and memory, read from /proc."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil


@dataclass(frozen=True, slots=True)
class Usage:
    """Of one process and all its descendants, at one moment.

    Attributes:
        cpu_seconds: user and system time since each started.
        rss_mib: resident memory, shared pages counted in each process.
    """

    cpu_seconds: float
    rss_mib: float


def usage(pid: int) -> Usage:
    """The usage of ``pid`` and its descendants.

    Raises:
        psutil.NoSuchProcess: ``pid`` is gone.
    """
    root = psutil.Process(pid)
    cpu_seconds = rss = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            cpu_seconds += times.user + times.system
            rss += process.memory_info().rss
    return Usage(cpu_seconds, rss / 2**20)


def machine_cpu_seconds() -> float:
    """CPU time that all processes of the machine together have used since it started."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
