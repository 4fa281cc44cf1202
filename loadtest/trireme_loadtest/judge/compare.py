"""Compares two runs: differences that exceed the noise of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trireme_loadtest.errors import SpecError
from trireme_loadtest.record import LoadRecord, SecondCounts

PERCENTS = (50.0, 95.0, 99.0)
REPLICATES = 2000
# Resampling only a few seconds cannot show how seconds vary.
LEAST_SECONDS = 10
SEED = 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of one task in both runs.

    Attributes:
        first, second: the value in each run; milliseconds, a share, or requests per second.
        low, high: 95 % confidence interval of ``second - first``; NaN if a run is too short for one.
    """

    task: str
    measure: str
    first: float
    second: float
    low: float
    high: float

    @property
    def is_shown(self) -> bool:
        """Whether the interval excludes zero."""
        return self.low > 0 or self.high < 0

    @property
    def word(self) -> str:
        if math.isnan(self.low):
            return "too short to decide"
        if not self.is_shown:
            return "no difference shown"
        return "higher" if self.low > 0 else "lower"


def compare(first: LoadRecord, second: LoadRecord) -> list[Difference]:
    """The differences of every task that both runs have.

    The intervals come from resampling whole seconds of each run: requests of the same second are correlated, and
    treating them as independent would make noise look like a difference (block bootstrap). Source: Künsch, "The
    jackknife and the bootstrap for general stationary observations", 1989.

    Raises:
        SpecError: the runs have no task in common, or one of them is invalid.
    """
    for name, record in (("first", first), ("second", second)):
        if record.generator.problem:
            raise SpecError(f"the {name} run is invalid and cannot be compared: {record.generator.problem}")
    common = [task for task in first.tasks if task in second.tasks]
    if not common:
        raise SpecError(
            f"the runs have no task in common: {', '.join(first.tasks)} in the first, {', '.join(second.tasks)} in the "
            "second"
        )
    return [difference for task in common for difference in _compare_task(task, first, second)]


def _compare_task(task: str, first: LoadRecord, second: LoadRecord) -> list[Difference]:
    names = ["answered/s", "error rate", *(f"p{percent:g} ms" for percent in PERCENTS)]
    chance = np.random.default_rng(SEED)
    measured = [_Resampler(record.tasks[task], record.answered_seconds / record.seconds) for record in (first, second)]
    values = [one.measure(np.ones((1, one.seconds)))[0] for one in measured]
    if min(one.seconds for one in measured) < LEAST_SECONDS:
        lows = highs = np.full(len(names), math.nan)
    else:
        resampled = [one.measure(one.weights(chance)) for one in measured]
        lows, highs = np.nanpercentile(resampled[1] - resampled[0], [2.5, 97.5], axis=0)
    return [
        Difference(task, name, float(values[0][at]), float(values[1][at]), float(lows[at]), float(highs[at]))
        for at, name in enumerate(names)
    ]


class _Resampler:
    """The seconds of one task of one run, drawn with replacement."""

    def __init__(self, windows: Sequence[SecondCounts], stretch: float) -> None:
        self.seconds = len(windows)
        # How much longer the responses took than the requests.
        self._stretch = stretch
        self._asked = np.array([window.asked for window in windows], dtype=np.float64)
        self._failed = np.array([window.failed for window in windows], dtype=np.float64)
        values = sorted({value for window in windows for value in window.latency.counts})
        self._values_ms = np.array(values, dtype=np.float64) / 1000
        self._counts = np.array([[window.latency.counts.get(value, 0) for value in values] for window in windows])

    def weights(self, chance: np.random.Generator) -> Floats:
        """Number of draws of each second, FP64 [replicates, seconds]."""
        share = np.full(self.seconds, 1 / self.seconds)
        return chance.multinomial(self.seconds, share, size=REPLICATES).astype(np.float64)

    def measure(self, weights: Floats) -> Floats:
        """FP64 [replicates, measures]: responses per second, error rate, the percentiles."""
        asked, failed = weights @ self._asked, weights @ self._failed
        columns = [(asked - failed) / self.seconds / self._stretch, failed / np.maximum(asked, 1)]
        if len(self._values_ms) == 0:
            return np.column_stack([*columns, *(np.full(len(weights), math.nan) for _ in PERCENTS)])
        cumulated = np.cumsum(weights @ self._counts, axis=1)
        for percent in PERCENTS:
            reached = cumulated >= np.ceil(cumulated[:, -1:] * percent / 100)
            columns.append(self._values_ms[np.argmax(reached, axis=1)])
        return np.column_stack(columns)
