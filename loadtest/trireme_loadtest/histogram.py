"""Latencies as counts of rounded values: small, exact to half a per cent, and merged by addition."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

SIGNIFICANT_DIGITS = 3


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of latencies, in microseconds rounded to three significant digits.

    A percentile of merged histograms is that of all requests together; a mean of percentiles is not.
    Source of the idea: HdrHistogram (Tene), whose buckets too are a fixed number of significant digits wide.

    Attributes:
        counts: by latency in microseconds.
    """

    counts: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, latencies_ms: npt.ArrayLike) -> Histogram:
        """Count latencies, FP64 [requests] milliseconds."""
        microseconds = np.maximum(np.asarray(latencies_ms, dtype=np.float64) * 1000, 1.0)
        steps = 10.0 ** np.maximum(np.floor(np.log10(microseconds)) - (SIGNIFICANT_DIGITS - 1), 0)
        values, counts = np.unique((np.round(microseconds / steps) * steps).astype(np.int64), return_counts=True)
        return cls(dict(zip(values.tolist(), counts.tolist(), strict=True)))

    @classmethod
    def merged(cls, histograms: Iterable[Histogram]) -> Histogram:
        total: Counter[int] = Counter()
        for histogram in histograms:
            total.update(histogram.counts)
        return cls(dict(sorted(total.items())))

    @property
    def count(self) -> int:
        return sum(self.counts.values())

    @property
    def mean_ms(self) -> float:
        """NaN when empty."""
        return (
            sum(value * times for value, times in self.counts.items()) / self.count / 1000 if self.counts else math.nan
        )

    @property
    def least_ms(self) -> float:
        return min(self.counts) / 1000 if self.counts else math.nan

    @property
    def greatest_ms(self) -> float:
        return max(self.counts) / 1000 if self.counts else math.nan

    def percentile_ms(self, percent: float) -> float:
        """The lowest latency that ``percent`` of the requests did not exceed (nearest rank); NaN when empty."""
        return self.rank_ms(math.ceil(percent / 100 * self.count))

    def rank_ms(self, rank: int) -> float:
        """The ``rank``-th lowest latency, from 1; NaN when empty."""
        if not 1 <= rank <= self.count:
            # Percentile 0 gives rank 0: use the lowest latency.
            return self.least_ms if rank == 0 else math.nan
        values = np.array(sorted(self.counts), dtype=np.int64)
        cumulated = np.cumsum([self.counts[value] for value in values.tolist()])
        return float(values[np.searchsorted(cumulated, rank)]) / 1000

    def share_above(self, limit_ms: float) -> float:
        """Share of requests slower than ``limit_ms``."""
        above = sum(times for value, times in self.counts.items() if value > limit_ms * 1000)
        return above / self.count if self.counts else math.nan

    def percentile_interval_ms(self, percent: float, confidence: float = 0.95) -> tuple[float, float]:
        """Confidence interval of the percentile; with too few samples for an end, that end is 0 or infinite.

        Makes no assumption on the distribution: the number of requests under the true percentile is binomial. It
        assumes independent requests; if slow requests come in clusters, the true interval is wider.
        Source: Conover, "Practical Nonparametric Statistics", confidence interval for a quantile.
        """
        from scipy.stats import binom

        share, tail = percent / 100, (1 - confidence) / 2
        low = int(binom.ppf(tail, self.count, share))
        high = int(binom.ppf(1 - tail, self.count, share)) + 1
        return (
            self.rank_ms(low) if low >= 1 else 0.0,
            self.rank_ms(high) if high <= self.count else math.inf,
        )
