"""Open-loop arrivals: send times are set before the run and do not depend on the server's responses.

| spec | requests arrive |
|---|---|
| ``constant:50`` | evenly, 50 per second |
| ``poisson:50`` | at random, 50 per second, like many independent callers |
| ``ramp:10-200`` | at random, at a rate that grows (or falls) steadily over the run |
| ``burst:20-200/10/1`` | at random, 20 per second, and 200 per second for 1 s out of every 10 |
| ``trace:FILE`` | as recorded: one number per line, seconds from the start |
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from trireme.errors import ConfigError

from trireme_loadtest.errors import SpecError

MOST_REQUESTS_PER_SECOND = 100_000.0
MOST_REQUESTS = 5_000_000
_NUMBER = r"([0-9.eE+-]+?)"
_FORMS = {
    "constant": re.compile(_NUMBER),
    "poisson": re.compile(_NUMBER),
    "ramp": re.compile(f"{_NUMBER}-{_NUMBER}"),
    "burst": re.compile(f"{_NUMBER}-{_NUMBER}/{_NUMBER}/{_NUMBER}"),
}
_EXAMPLES = "constant:50, poisson:50, ramp:10-200, burst:20-200/10/1 or trace:FILE"

Times = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """A parsed spec.

    Attributes:
        spec: as written.
        times: the send times of a run of the given seconds, FP64 [requests], ascending, in seconds from its start.
    """

    spec: str
    _times: Callable[[float, int], Times]

    @classmethod
    def parse(cls, spec: str) -> Arrivals:
        """Parse a spec of the table above.

        Raises:
            SpecError: the form is unknown, or a rate is zero, negative or too high.
            ConfigError: a line of the trace is not a time.
        """
        kind, _, rest = spec.partition(":")
        if kind == "trace" and rest:
            trace = _read_trace(Path(rest))
            return cls(spec, lambda seconds, seed: trace[trace < seconds])  # noqa: ARG005
        found = _FORMS[kind].fullmatch(rest) if kind in _FORMS else None
        if found is None:
            raise SpecError(f"arrivals {spec!r} have no known form; use {_EXAMPLES}")
        numbers = [_positive(text, spec) for text in found.groups()]
        if kind == "constant":
            return cls(spec, lambda seconds, seed: np.arange(round(seconds * numbers[0])) / numbers[0])  # noqa: ARG005
        if kind == "poisson":
            return cls(spec, lambda seconds, seed: _random_times(lambda _: numbers[0], numbers[0], seconds, seed))
        if kind == "ramp":
            first, last = numbers
            return cls(
                spec,
                lambda seconds, seed: _random_times(
                    lambda at: first + (last - first) * at / seconds, max(first, last), seconds, seed
                ),
            )
        base, peak, every, length = numbers
        if length >= every:
            raise SpecError(f"arrivals {spec!r}: a burst of {length:g} s does not fit into every {every:g} s")
        return cls(
            spec,
            lambda seconds, seed: _random_times(
                lambda at: np.where(at % every >= every - length, peak, base).astype(np.float64),
                max(base, peak),
                seconds,
                seed,
            ),
        )

    def times(self, seconds: float, seed: int) -> Times:
        """The send times of a run of ``seconds``; equal seeds give equal times.

        Raises:
            SpecError: the run has none, or more than five million.
        """
        times = self._times(seconds, seed)
        if len(times) == 0:
            raise SpecError(f"arrivals {self.spec!r} send no request within {seconds:g} s; use a longer run")
        if len(times) > MOST_REQUESTS:
            raise SpecError(
                f"arrivals {self.spec!r} are {len(times)} requests in {seconds:g} s; the limit is {MOST_REQUESTS}"
            )
        return times


def _positive(text: str, spec: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise SpecError(f"arrivals {spec!r}: {text!r} is not a number; use {_EXAMPLES}") from None
    if not math.isfinite(number) or number <= 0:
        raise SpecError(f"arrivals {spec!r}: {text} must be above zero")
    if number > MOST_REQUESTS_PER_SECOND:
        raise SpecError(f"arrivals {spec!r}: {text} exceeds the limit of {MOST_REQUESTS_PER_SECOND:.0f} per second")
    return number


def _random_times(rate_at: Callable[[Times], Times | float], most: float, seconds: float, seed: int) -> Times:
    """A Poisson process of varying rate, by thinning one with the highest rate.

    Source: Lewis and Shedler, "Simulation of nonhomogeneous Poisson processes by thinning", 1979.
    """
    if most * seconds > MOST_REQUESTS:
        raise SpecError(f"{most:g} requests per second for {seconds:g} s exceed the limit of {MOST_REQUESTS}")
    generator = np.random.default_rng(seed)
    # A Poisson process is a Poisson number of uniform times.
    times = np.sort(generator.uniform(0.0, seconds, generator.poisson(most * seconds)))
    kept: Times = times[generator.uniform(0.0, most, len(times)) < rate_at(times)]
    return kept


def _read_trace(path: Path) -> Times:
    times = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            time = float(line)
        except ValueError:
            time = math.nan
        if not math.isfinite(time) or time < 0:
            raise ConfigError(path, f"{line[:40]!r} is not a time in seconds from the start", line=number)
        times.append(time)
    return np.sort(np.array(times, dtype=np.float64))
