"""Progress of a starting process, however slow the machine."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

# An idle tritonserver uses no CPU and reads 3 KB per second; a loading one exceeds these within a minute, even with a
# tenth of a core.
_CPU_SECONDS = 1.0
_READ_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class _Usage:
    """Resource usage of a process and its children."""

    log_bytes: int
    cpu_seconds: float
    read_bytes: int

    def exceeds(self, before: _Usage) -> bool:
        # The share of a child that exited is missing, which is a change as well.
        return (
            self.log_bytes != before.log_bytes
            or abs(self.cpu_seconds - before.cpu_seconds) >= _CPU_SECONDS
            or abs(self.read_bytes - before.read_bytes) >= _READ_BYTES
        )


class Progress:
    """Watches one process: progress is a growing log, or CPU time or reads of it or its children.

    Example:
        >>> progress = Progress(server.pid, server.log_path)
        >>> while progress.stalled_seconds() < 180: time.sleep(1)
    """

    def __init__(self, pid: int, log_path: Path) -> None:
        self._pid, self._log_path = pid, log_path
        self._usage, self._moved_at = self._read_usage(), time.monotonic()

    def stalled_seconds(self) -> float:
        """Seconds since the last call that found progress; 0.0 if this call does."""
        usage, now = self._read_usage(), time.monotonic()
        if usage.exceeds(self._usage):
            self._usage, self._moved_at = usage, now
        return now - self._moved_at

    def _read_usage(self) -> _Usage:
        cpu_seconds, read_bytes = 0.0, 0
        try:
            process = psutil.Process(self._pid)
            family = [process, *process.children(recursive=True)]
        except psutil.Error:
            family = []
        for member in family:
            try:
                times, io = member.cpu_times(), member.io_counters()
            except psutil.Error:
                continue
            cpu_seconds += times.user + times.system
            # Reads from files, and page faults of mapped files.
            read_bytes += io.read_chars + io.read_bytes
        return _Usage(self._log_path.stat().st_size, cpu_seconds, read_bytes)
