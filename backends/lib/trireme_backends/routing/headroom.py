"""How much of the time that is left the better variants may use up: less while answers come late, more again later.

Variants share a machine. Each alone is predicted to be in time, and yet the best ones, filled up to the last
millisecond of everybody's SLA, take the cores from the cheap ones: the queues grow, and go on growing. So a late answer
takes three tenths of the share that all but the fastest variant are allowed, and every second gives a part back:
additive increase, multiplicative decrease (Chiu and Jain, "Analysis of the increase and decrease algorithms for
congestion avoidance in computer networks", Computer Networks and ISDN Systems 17, 1989).
"""

from __future__ import annotations

_CUT = 0.7
_LEAST = 0.05
_REGAINED_PER_SECOND = 0.1
# What waits already comes late whatever is decided now: it must not count once for each request.
_CUT_INTERVAL_SECONDS = 0.1


class Headroom:
    """A share from 0.05 to 1. ``now`` in seconds of a monotonic clock.

    Example:
        >>> headroom = Headroom()
        >>> headroom.late(now=1.0)
        >>> headroom.share(now=2.0)
        0.8
    """

    def __init__(self) -> None:
        self._cut_to = 1.0
        self._cut_at = 0.0

    def share(self, now: float) -> float:
        return min(self._cut_to + _REGAINED_PER_SECOND * (now - self._cut_at), 1.0)

    def late(self, now: float) -> None:
        """An answer came, or will come, after its time because of what waited before it."""
        if now - self._cut_at >= _CUT_INTERVAL_SECONDS:
            self._cut_to, self._cut_at = max(self.share(now) * _CUT, _LEAST), now
