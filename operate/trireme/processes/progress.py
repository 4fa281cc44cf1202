"""Whether a process that is starting makes progress, however slow its machine is."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import psutil

# An idle tritonserver uses 0 CPU seconds and reads 3 KB a second; one that loads uses more than this in a minute, also
# when it gets a tenth of a core.
_CPU_SECONDS = 1.0
_READ_BYTES = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class _Work:
    """What a process and its children have done so far."""

    log_bytes: int
    cpu_seconds: float
    read_bytes: int

    def is_beyond(self, before: _Work) -> bool:
        # Of a child that ended the share is gone: that is a change as well.
        return (
            self.log_bytes != before.log_bytes
            or abs(self.cpu_seconds - before.cpu_seconds) >= _CPU_SECONDS
            or abs(self.read_bytes - before.read_bytes) >= _READ_BYTES
        )


class Progress:
    """Watches one process: its log grows, or it and its children compute or read.

    Example:
        >>> progress = Progress(server.pid, server.log_path)
        >>> while progress.stalled_seconds() < 180: time.sleep(1)
    """

    def __init__(self, pid: int, log_path: Path) -> None:
        self._pid, self._log_path = pid, log_path
        self._work, self._moved_at = self._look(), time.monotonic()

    def stalled_seconds(self) -> float:
        """Seconds since the last call that found progress; 0.0 where this one does."""
        work, now = self._look(), time.monotonic()
        if work.is_beyond(self._work):
            self._work, self._moved_at = work, now
        return now - self._moved_at

    def _look(self) -> _Work:
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
            # From files, and pages of mapped ones.
            read_bytes += io.read_chars + io.read_bytes
        return _Work(self._log_path.stat().st_size, cpu_seconds, read_bytes)
