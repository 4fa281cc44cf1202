"""Statistical tests that compare a canary with its stable version in the same window.

A judgement passes only if the canary is within its limit, and fails only if it is outside, each with an error
probability of at most ``alpha``. Otherwise it is undecided and needs more requests.

Sources:
    errors      Fisher, "The Design of Experiments", 1935 (exact test of two proportions), to fail
    shares      Clopper and Pearson, Biometrika 26, 1934 (exact binomial bounds), to pass, and for agreement
    p95         Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13 (percentile interval);
                Maritz and Jarrett, JASA 73, 1978 (the bootstrap distribution of a quantile)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, fisher_exact

_RESAMPLES = 10_000
# The same requests give the same verdict.
_SEED = 20


class CanaryVerdict(str, Enum):
    PASS = "pass"
    FAIL = "fail"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True)
class CanaryLimits:
    """How much worse than the stable version a canary may be.

    Attributes:
        error_excess: by how much its share of failed requests may exceed the stable version's.
        p95_ratio: maximum ratio of its p95 latency to the stable version's.
        p95_grace_ms: added to the latency that the ratio allows, so that noise does not fail very fast models.
        agreement: minimum share of responses equal to the stable version's, within the tolerances of golden samples.
        alpha: maximum probability that one judgement is wrong.
    """

    error_excess: float = 0.02
    p95_ratio: float = 1.5
    p95_grace_ms: float = 2.0
    agreement: float = 0.95
    alpha: float = 0.005


@dataclass(frozen=True, slots=True)
class RequestOutcomes:
    """The number of requests to one version in a window, and how many failed."""

    requests: int
    errors: int


@dataclass(frozen=True, slots=True)
class ObservationWindow:
    """Measurements of both versions over the same time.

    Attributes:
        stable, canary: all requests, including those of callers.
        stable_ms, canary_ms: latencies of the same requests, sent to both in turn.
        compared, agreed: pairs of responses, and how many of them were equal.
    """

    stable: RequestOutcomes
    canary: RequestOutcomes
    stable_ms: Sequence[float]
    canary_ms: Sequence[float]
    compared: int
    agreed: int


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict on one measure, with the numbers behind it as text."""

    verdict: CanaryVerdict
    summary: str


def judge(window: ObservationWindow, limits: CanaryLimits) -> Judgement:
    """Combine all three measures: fail if one fails, pass if all pass."""
    parts = (judge_errors(window, limits), judge_p95(window, limits), judge_agreement(window, limits))
    verdicts = {part.verdict for part in parts}
    overall = next((v for v in (CanaryVerdict.FAIL, CanaryVerdict.UNDECIDED) if v in verdicts), CanaryVerdict.PASS)
    shown = parts if overall is CanaryVerdict.PASS else [part for part in parts if part.verdict is overall]
    return Judgement(overall, ", ".join(part.summary for part in shown))


def judge_errors(window: ObservationWindow, limits: CanaryLimits) -> Judgement:
    """Fail if the canary fails more often (one-sided Fisher test); pass if the upper bound is within the excess."""
    stable, canary = window.stable, window.canary
    summary = f"errors {canary.errors} of {canary.requests}, stable {stable.errors} of {stable.requests}"
    if canary.requests == 0 or stable.requests == 0:
        return Judgement(CanaryVerdict.UNDECIDED, summary)
    table = [
        [canary.errors, canary.requests - canary.errors],
        [stable.errors, stable.requests - stable.errors],
    ]
    if fisher_exact(table, alternative="greater")[1] < limits.alpha:
        return Judgement(CanaryVerdict.FAIL, summary)
    allowed = stable.errors / stable.requests + limits.error_excess
    within = upper_bound(canary.errors, canary.requests, limits.alpha) <= allowed
    return Judgement(CanaryVerdict.PASS if within else CanaryVerdict.UNDECIDED, summary)


def judge_p95(window: ObservationWindow, limits: CanaryLimits) -> Judgement:
    """Bootstrap the excess of the canary's p95 over the allowed p95."""
    if not window.stable_ms or not window.canary_ms:
        return Judgement(CanaryVerdict.UNDECIDED, "no latencies")
    stable, canary = np.asarray(window.stable_ms), np.asarray(window.canary_ms)
    summary = f"p95 {np.quantile(canary, 0.95):.1f} ms, stable {np.quantile(stable, 0.95):.1f} ms"
    generator = np.random.default_rng(_SEED)
    allowed = limits.p95_ratio * _resampled_p95(stable, generator) + limits.p95_grace_ms
    excess = _resampled_p95(canary, generator) - allowed
    if np.quantile(excess, limits.alpha) > 0:
        return Judgement(CanaryVerdict.FAIL, summary)
    return Judgement(
        CanaryVerdict.PASS if np.quantile(excess, 1 - limits.alpha) <= 0 else CanaryVerdict.UNDECIDED, summary
    )


def judge_agreement(window: ObservationWindow, limits: CanaryLimits) -> Judgement:
    """Bound the true share of equal responses."""
    summary = f"agreement {window.agreed} of {window.compared}"
    disagreed = window.compared - window.agreed
    if window.compared == 0:
        return Judgement(CanaryVerdict.UNDECIDED, summary)
    allowed = 1 - limits.agreement
    if lower_bound(disagreed, window.compared, limits.alpha) > allowed:
        return Judgement(CanaryVerdict.FAIL, summary)
    within = upper_bound(disagreed, window.compared, limits.alpha) <= allowed
    return Judgement(CanaryVerdict.PASS if within else CanaryVerdict.UNDECIDED, summary)


def upper_bound(count: int, total: int, alpha: float) -> float:
    """The value that the true share exceeds with a probability of at most ``alpha`` (Clopper and Pearson)."""
    return float(binomtest(count, total, alternative="less").proportion_ci(1 - alpha).high)


def lower_bound(count: int, total: int, alpha: float) -> float:
    """The value that the true share is below with a probability of at most ``alpha`` (Clopper and Pearson)."""
    return float(binomtest(count, total, alternative="greater").proportion_ci(1 - alpha).low)


def _resampled_p95(values: npt.NDArray[np.float64], generator: np.random.Generator) -> npt.NDArray[np.float64]:
    """The p95 (nearest rank) of each resample, FP64 [resamples].

    No resample is drawn: its r-th smallest value is at the position of the r-th smallest of n uniform numbers, which
    has a beta distribution.
    """
    count = len(values)
    rank = math.ceil(0.95 * count)
    places = np.ceil(generator.beta(rank, count - rank + 1, _RESAMPLES) * count).astype(np.int64)
    result: npt.NDArray[np.float64] = np.sort(values)[places - 1]
    return result
