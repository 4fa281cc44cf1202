"""A circuit breaker: keeps requests away from an unhealthy variant until a probe succeeds.

Source: Nygard, "Release It!", 2007, chapter 5 (Circuit Breaker).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

_WINDOW = 20
_LEAST_FAILURES = 5
_FAILURE_RATIO = 0.5
_FIRST_OPEN_SECONDS = 0.5
_LONGEST_OPEN_SECONDS = 10.0


class BreakerState(str, Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens at 5 failures that are half of the last 20 outcomes, or at one that proves the variant unhealthy.

    An open breaker requests one probe after a delay, which doubles with each failed probe from 0.5 s to 10 s.
    ``on_change`` is called with each new state. ``now`` is in seconds of a monotonic clock.
    """

    def __init__(self, on_change: Callable[[BreakerState], None] = lambda _: None) -> None:
        self.state = BreakerState.CLOSED
        self._on_change = on_change
        self._outcomes: deque[bool] = deque(maxlen=_WINDOW)
        self._open_seconds = _FIRST_OPEN_SECONDS
        self._probe_at = 0.0

    def succeeded(self) -> None:
        """Record a successful call; it closes the breaker if it was a probe or started before the breaker opened."""
        if self.state is not BreakerState.CLOSED:
            self._outcomes.clear()
            self._change(BreakerState.CLOSED)
        self._open_seconds = _FIRST_OPEN_SECONDS
        self._outcomes.append(True)

    def failed(self, now: float, *, is_proof: bool = False) -> None:
        """Record a failed call; ``is_proof``: only an unhealthy variant fails this way."""
        self._outcomes.append(False)
        if self.state is BreakerState.HALF_OPEN:
            self._open_seconds = min(self._open_seconds * 2, _LONGEST_OPEN_SECONDS)
            self._open(now)
        elif self.state is BreakerState.CLOSED:
            failures = self._outcomes.count(False)
            if is_proof or (failures >= _LEAST_FAILURES and failures >= _FAILURE_RATIO * len(self._outcomes)):
                self._open(now)

    def probe_due(self, now: float) -> bool:
        """Return whether to send a probe now."""
        return self.state is BreakerState.OPEN and now >= self._probe_at

    def probe_sent(self) -> None:
        self._change(BreakerState.HALF_OPEN)

    def _open(self, now: float) -> None:
        self._probe_at = now + self._open_seconds
        self._change(BreakerState.OPEN)

    def _change(self, state: BreakerState) -> None:
        self.state = state
        self._on_change(state)
