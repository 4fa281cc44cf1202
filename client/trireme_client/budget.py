"""Counters that decide what may be sent beyond the caller's own requests."""

from __future__ import annotations

import threading
from collections import deque

# Calls whose unused share is remembered: after a long quiet time an outage must not find a budget of thousands.
_REMEMBERED_CALLS = 1000


class Budget:
    """Extra requests as a share of calls: ``floor`` of them at once, then no more than ``percent`` of all calls."""

    def __init__(self, percent: float, floor: int = 0) -> None:
        self._percent, self._floor = percent, floor
        self._earned_percent = 0.0  # 100 make one request
        self._spent = 0.0
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Count one call. Without the lock: a count lost between threads only makes the budget smaller."""
        self._earned_percent += self._percent

    def spend(self) -> bool:
        """Take one extra request; False: there is none left."""
        with self._lock:
            earned = self._earned_percent / 100
            self._spent = max(self._spent, earned - self._percent / 100 * _REMEMBERED_CALLS)
            if self._spent + 1 > max(self._floor, earned):
                return False
            self._spent += 1
            return True


class Latencies:
    """The latency that a share of a model's recent answers stayed under."""

    def __init__(self, percentile: float, min_samples: int) -> None:
        self._rank, self._min_samples = percentile / 100.0, min_samples
        self._recent: dict[str, deque[float]] = {}
        self._found: dict[str, float] = {}
        self._seen: dict[str, int] = {}

    def record(self, model: str, latency_s: float) -> None:
        """Note one answer's latency."""
        recent = self._recent.setdefault(model, deque(maxlen=max(1000, self._min_samples)))
        recent.append(latency_s)
        seen = self._seen[model] = self._seen.get(model, 0) + 1
        # Sorting a thousand numbers at each call would cost more than the call.
        if seen >= self._min_samples and (seen % 50 == 0 or model not in self._found):
            ordered = sorted(recent.copy())
            self._found[model] = ordered[min(len(ordered) - 1, int(self._rank * len(ordered)))]

    def at_percentile(self, model: str) -> float | None:
        """Seconds; None while too few answers were seen."""
        return self._found.get(model)
