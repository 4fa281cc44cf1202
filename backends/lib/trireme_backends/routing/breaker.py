"""A circuit breaker: keeps requests away from a sick variant, and lets it back when a probe succeeds.

Source: Nygard, "Release It!", 2007, chapter 5 (Circuit Breaker).
"""

from __future__ import annotations

from collections import deque
from enum import Enum

_WINDOW = 20
_LEAST_FAILURES = 5
_FAILURE_RATIO = 0.5
_FIRST_REST_SECONDS = 0.5
_LONGEST_REST_SECONDS = 10.0


class BreakerState(str, Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens at 5 failures that are half of the last 20 outcomes, or at one that proves sickness.

    Open, it asks for one probe after a rest; the rest doubles with each probe that fails, from 0.5 s to 10 s.
    ``now`` is in seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self.state = BreakerState.CLOSED
        self._outcomes: deque[bool] = deque(maxlen=_WINDOW)
        self._rest_seconds = _FIRST_REST_SECONDS
        self._probe_at = 0.0

    def succeeded(self) -> None:
        """A call was answered: closes the breaker, if it was a probe or a call from before the opening."""
        if self.state is not BreakerState.CLOSED:
            self.state = BreakerState.CLOSED
            self._outcomes.clear()
        self._rest_seconds = _FIRST_REST_SECONDS
        self._outcomes.append(True)

    def failed(self, now: float, *, surely: bool = False) -> None:
        """A call failed; ``surely``: in a way that only a sick variant does."""
        self._outcomes.append(False)
        if self.state is BreakerState.HALF_OPEN:
            self._rest_seconds = min(self._rest_seconds * 2, _LONGEST_REST_SECONDS)
            self._open(now)
        elif self.state is BreakerState.CLOSED:
            failures = self._outcomes.count(False)
            if surely or (failures >= _LEAST_FAILURES and failures >= _FAILURE_RATIO * len(self._outcomes)):
                self._open(now)

    def probe_due(self, now: float) -> bool:
        """Whether a probe should be sent now."""
        return self.state is BreakerState.OPEN and now >= self._probe_at

    def probe_sent(self) -> None:
        self.state = BreakerState.HALF_OPEN

    def _open(self, now: float) -> None:
        self.state = BreakerState.OPEN
        self._probe_at = now + self._rest_seconds
