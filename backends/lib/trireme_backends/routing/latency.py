"""Predicts a variant's p95 from observed latencies and its queue, and limits the time that predictions may use.

Three parts, each O(1) per request:

1. *Time of one call* of n rows: ``overhead + n * per_row``, a least-squares line over recent calls whose weights decay
   with every call and with time. Batch latency is close to linear in the batch size: Crankshaw et al., "Clipper",
   NSDI 2017, section 4.3; Shen et al., "Nexus", SOSP 2019, section 2.2.
2. *Queue*: the expected time until a call in flight ends, and the calls that the rows in front will make.
3. *p95*: the first two give an estimate, multiplied by the ratio of observed to estimated latency. Its 95 % quantile
   is tracked by stochastic approximation (Robbins and Monro, 1951), the way adaptive conformal inference tracks its
   level (Gibbs and Candes, "Adaptive Conformal Inference Under Distribution Shift", NeurIPS 2021): by construction
      95 % of the responses arrive within the prediction, whatever the two models above miss.

Without observations all values decay to the expected latency of ``route.json`` within seconds, so that a variant that
was slow once receives requests again and can prove to be fast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trireme_backends.routing.route import Limits

QUANTILE = 0.95

# The weight of an observation falls by 3 % with each later one and by half in 10 s: a memory of some 30 calls.
_FADE_PER_CALL = 0.97
_HALF_LIFE_SECONDS = 10.0
# The expected latency of route.json counts as half a call.
_PRIOR_WEIGHT = 0.5
# Row counts hardly vary at low load: this weight (in rows squared) pulls the slope to "all time is per row".
_SLOPE_PRIOR = 2.0
_STEP = 0.06
_RATIO_START = math.log(1.5)
_RATIO_MOST = math.log(20.0)

_BUDGET_CUT = 0.7
_LEAST_BUDGET = 0.05
_BUDGET_REGAINED_PER_SECOND = 0.1
# Requests that already wait will be late whatever is decided now: they must not count once each.
_BUDGET_CUT_INTERVAL_SECONDS = 0.1


class LatencyEstimator:
    """Predicts one variant's latency. Times in milliseconds; ``now`` in seconds of a monotonic clock.

    Example:
        >>> estimator = LatencyEstimator(expected_ms=5.0)
        >>> estimator.call_ended(rows=8, call_ms=20.0, now=1.0)
        >>> estimator.p95_ms(estimator.call_ms(rows=2, now=1.1), now=1.1)
    """

    def __init__(self, expected_ms: float) -> None:
        self._expected_ms = expected_ms
        self._weight = self._rows = self._ms = self._rows_rows = self._rows_ms = 0.0
        self._log_ratio = _RATIO_START
        self._call_at = self._answer_at = -math.inf

    def call_ms(self, rows: int, now: float) -> float:
        """Expected time of one call of ``rows`` rows, without waiting."""
        overhead_ms, per_row_ms = self._line(now)
        return overhead_ms + per_row_ms * rows

    def queue_ms(
        self, rows: int, *, waiting: int, free: bool, running: Sequence[tuple[int, float]], limits: Limits, now: float
    ) -> float:
        """Expected time until a request of ``rows`` rows is served.

        Args:
            waiting: rows that wait in front of it.
            free: whether a call may start at once.
            running: rows and start time of each call in flight.
        """
        overhead_ms, per_row_ms = self._line(now)
        if free:
            return overhead_ms + per_row_ms * rows
        ends_ms = min(max(overhead_ms + per_row_ms * size - (now - started) * 1000, 0.0) for size, started in running)
        full_calls, before = divmod(waiting, limits.max_rows_per_call)
        full_ms = (overhead_ms + per_row_ms * limits.max_rows_per_call) * full_calls / limits.max_calls_in_flight
        return ends_ms + full_ms + overhead_ms + per_row_ms * (before + rows)

    def p95_ms(self, point_ms: float, now: float) -> float:
        """The time within which 95 % of the requests with this point estimate are served."""
        return point_ms * math.exp(self._faded_ratio(now))

    def call_ended(self, *, rows: int, call_ms: float, now: float) -> None:
        """Update the line with a call that ended."""
        fade = _FADE_PER_CALL * _half_life(now - self._call_at)
        self._call_at = now
        self._weight = self._weight * fade + 1
        self._rows = self._rows * fade + rows
        self._ms = self._ms * fade + call_ms
        self._rows_rows = self._rows_rows * fade + rows * rows
        self._rows_ms = self._rows_ms * fade + rows * call_ms

    def request_ended(self, *, point_ms: float, seen_ms: float, now: float) -> None:
        """Update the p95 with a request that was served, or left, ``seen_ms`` after the variant received it."""
        ratio = self._faded_ratio(now)
        late = math.log(max(seen_ms, 1e-3) / point_ms) > ratio
        ratio += _STEP * (QUANTILE if late else QUANTILE - 1)
        self._log_ratio = min(max(ratio, -_RATIO_MOST), _RATIO_MOST)
        self._answer_at = now

    def _line(self, now: float) -> tuple[float, float]:
        fade = _half_life(now - self._call_at)
        weight = self._weight * fade + _PRIOR_WEIGHT
        rows = (self._rows * fade + _PRIOR_WEIGHT) / weight
        ms = (self._ms * fade + _PRIOR_WEIGHT * self._expected_ms) / weight
        variance = (self._rows_rows * fade + _PRIOR_WEIGHT) / weight - rows * rows
        covariance = (self._rows_ms * fade + _PRIOR_WEIGHT * self._expected_ms) / weight - rows * ms
        slope_prior = _SLOPE_PRIOR / weight
        per_row_ms = (covariance + slope_prior * ms / rows) / (max(variance, 0.0) + slope_prior)
        per_row_ms = min(max(per_row_ms, 0.0), ms / rows)
        return ms - per_row_ms * rows, per_row_ms

    def _faded_ratio(self, now: float) -> float:
        return _RATIO_START + (self._log_ratio - _RATIO_START) * _half_life(now - self._answer_at)


def _half_life(age_seconds: float) -> float:
    return float(0.5 ** (age_seconds / _HALF_LIFE_SECONDS))


class TimeBudget:
    """The share of a request's time, from 0.05 to 1, that all but the fastest variant may be predicted to take.

    Variants share a machine. Each alone is predicted to be in time, but the best, filled up to the last millisecond of
    every SLA, takes the cores from the cheap ones, and all queues grow. So a late response cuts the share to seven
    tenths, and each second restores a tenth: additive increase, multiplicative decrease (Chiu and Jain, "Analysis of
    the increase and decrease algorithms for congestion avoidance in computer networks", Computer Networks and ISDN
    Systems 17, 1989). ``now`` is in seconds of a monotonic clock.

    Example:
        >>> budget = TimeBudget()
        >>> budget.cut(now=1.0)
        >>> budget.share(now=2.0)
        0.8
    """

    def __init__(self) -> None:
        self._cut_to = 1.0
        self._cut_at = 0.0

    def share(self, now: float) -> float:
        return min(self._cut_to + _BUDGET_REGAINED_PER_SECOND * (now - self._cut_at), 1.0)

    def cut(self, now: float) -> None:
        """Cut the share: a response was late, or will be, because of a queue."""
        if now - self._cut_at >= _BUDGET_CUT_INTERVAL_SECONDS:
            self._cut_to, self._cut_at = max(self.share(now) * _BUDGET_CUT, _LEAST_BUDGET), now
