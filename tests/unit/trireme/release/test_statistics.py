"""Good versions pass and bad ones do not, within the error probabilities."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from trireme.release.statistics import (
    CanaryLimits,
    CanaryVerdict,
    ObservationWindow,
    RequestOutcomes,
    judge,
    judge_agreement,
    judge_errors,
    judge_p95,
    lower_bound,
    upper_bound,
)

_PAIRS, _MAX_PAIRS, _STEPS = 300, 1500, 5
_SEED = 20


@dataclass(frozen=True, slots=True)
class _Version:
    """How a simulated version behaves beside a stable one with log-normal latencies (median 10 ms, sigma 0.4)."""

    errors: float = 0.0
    disagreement: float = 0.0
    slowdown: float = 1.0


def _window(version: _Version, pairs: int, generator: np.random.Generator) -> ObservationWindow:
    stable = generator.lognormal(np.log(10.0), 0.4, pairs)
    canary = generator.lognormal(np.log(10.0), 0.4, pairs) * version.slowdown
    failed = int(generator.binomial(pairs, version.errors))
    compared = pairs - failed
    agreed = compared - int(generator.binomial(compared, version.disagreement))
    return ObservationWindow(
        RequestOutcomes(pairs, 0), RequestOutcomes(pairs, failed), stable.tolist(), canary.tolist(), compared, agreed
    )


def _is_promoted(version: _Version, generator: np.random.Generator) -> bool:
    """Run one canary through all its steps, judged after every 300 pairs as in the controller."""
    for _ in range(_STEPS):
        full = _window(version, _MAX_PAIRS, generator)
        for pairs in range(_PAIRS, _MAX_PAIRS + 1, _PAIRS):
            failed = int(generator.hypergeometric(full.canary.errors, _MAX_PAIRS - full.canary.errors, pairs))
            compared = pairs - failed
            different = full.compared - full.agreed
            disagreed = int(generator.hypergeometric(different, full.agreed, compared))
            part = ObservationWindow(
                RequestOutcomes(pairs, 0), RequestOutcomes(pairs, failed),
                full.stable_ms[:pairs], full.canary_ms[:pairs], compared, compared - disagreed,
            )  # fmt: skip
            verdict = judge(part, CanaryLimits()).verdict
            if verdict is not CanaryVerdict.UNDECIDED:
                break
        if verdict is not CanaryVerdict.PASS:
            return False
    return True


def promoted_share(version: _Version, canaries: int) -> float:
    generator = np.random.default_rng(_SEED)
    return Counter(_is_promoted(version, generator) for _ in range(canaries))[True] / canaries


@pytest.mark.parametrize("canaries", [50, pytest.param(400, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("version", "min_share", "max_share"),
    [
        pytest.param(_Version(), 0.98, 1.0, id="equal"),
        pytest.param(_Version(slowdown=1.1), 0.98, 1.0, id="1.1 times the latency"),
        pytest.param(_Version(disagreement=0.01), 0.98, 1.0, id="1 % different responses"),
        pytest.param(_Version(slowdown=2.0), 0.0, 0.0, id="twice the latency"),
        pytest.param(_Version(disagreement=0.1), 0.0, 0.0, id="10 % different responses"),
        pytest.param(_Version(errors=0.05), 0.0, 0.0, id="5 % errors"),
        pytest.param(_Version(errors=1.0), 0.0, 0.0, id="only errors"),
    ],
)
def test_a_canary_promotes_good_versions_and_no_bad_ones(
    version: _Version, min_share: float, max_share: float, canaries: int
) -> None:
    assert min_share <= promoted_share(version, canaries) <= max_share


def test_a_version_at_the_limit_passes_no_more_often_than_alpha() -> None:
    generator = np.random.default_rng(_SEED)
    limits = CanaryLimits(alpha=0.05)
    at_the_limit = _Version(disagreement=0.05, errors=0.02, slowdown=1.5)
    passed: Counter[str] = Counter()
    windows = 400
    for _ in range(windows):
        window = _window(at_the_limit, _PAIRS, generator)
        passed["errors"] += judge_errors(window, limits).verdict is CanaryVerdict.PASS
        passed["agreement"] += judge_agreement(window, limits).verdict is CanaryVerdict.PASS
        passed["p95"] += judge_p95(window, CanaryLimits(alpha=0.05, p95_grace_ms=0.0)).verdict is CanaryVerdict.PASS
    # Three standard errors above 5 %; six for the bootstrap, which is exact only for many requests.
    assert passed["errors"] / windows < 0.083
    assert passed["agreement"] / windows < 0.083
    assert passed["p95"] / windows < 0.116


def test_bounds_are_those_of_clopper_and_pearson() -> None:
    # The exact rule of three: no event in n trials.
    assert upper_bound(0, 100, 0.05) == pytest.approx(1 - 0.05 ** (1 / 100))
    assert lower_bound(100, 100, 0.05) == pytest.approx(0.05 ** (1 / 100))
    assert (lower_bound(0, 100, 0.05), upper_bound(100, 100, 0.05)) == (0.0, 1.0)


def test_errors_of_both_versions_do_not_fail_the_canary() -> None:
    both = ObservationWindow(RequestOutcomes(3000, 300), RequestOutcomes(3000, 300), [1.0], [1.0], 1, 1)
    assert judge_errors(both, CanaryLimits()).verdict is CanaryVerdict.PASS


def test_an_empty_window_is_undecided() -> None:
    nothing = ObservationWindow(RequestOutcomes(0, 0), RequestOutcomes(0, 0), [], [], 0, 0)
    assert judge(nothing, CanaryLimits()).verdict is CanaryVerdict.UNDECIDED


def test_few_perfect_responses_are_undecided() -> None:
    window = ObservationWindow(RequestOutcomes(50, 0), RequestOutcomes(50, 0), [1.0] * 50, [1.0] * 50, 50, 50)
    assert judge(window, CanaryLimits()).verdict is CanaryVerdict.UNDECIDED
