from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trireme_loadtest.histogram import Histogram

_LATENCIES = st.lists(st.floats(min_value=0.01, max_value=1e6), min_size=1, max_size=300)


@given(_LATENCIES, st.sampled_from([50.0, 90.0, 99.0, 99.9]))
def test_percentiles_are_those_of_the_samples_to_half_a_per_cent(latencies: list[float], percent: float) -> None:
    exact = float(np.percentile(latencies, percent, method="inverted_cdf"))

    assert Histogram.of(latencies).percentile_ms(percent) == pytest.approx(exact, rel=0.006, abs=0.001)


@given(_LATENCIES, _LATENCIES)
def test_merged_histograms_are_the_histogram_of_all_samples(first: list[float], second: list[float]) -> None:
    merged = Histogram.merged([Histogram.of(first), Histogram.of(second)])

    assert merged.counts == Histogram.of(first + second).counts


def test_merged_percentiles_are_exact_unlike_their_mean() -> None:
    quick, slow = Histogram.of([1.0] * 990), Histogram.of([100.0] * 10)

    assert Histogram.merged([quick, slow]).percentile_ms(99) == 1.0
    assert (quick.percentile_ms(99) + slow.percentile_ms(99)) / 2 == 50.5


def test_the_interval_of_a_percentile_has_its_confidence() -> None:
    chance = np.random.default_rng(1)
    true_p95 = -math.log(0.05)
    held = 0
    for _ in range(400):
        low, high = Histogram.of(chance.exponential(size=300)).percentile_interval_ms(95)
        held += low <= true_p95 <= high

    # Binomial with n=400, p=0.95: 0.92 is three deviations below.
    assert held / 400 >= 0.92


def test_too_few_samples_give_a_high_percentile_no_upper_end() -> None:
    low, high = Histogram.of([1.0] * 50).percentile_interval_ms(99)

    assert low == 1.0
    assert math.isinf(high)


def test_an_empty_histogram_has_no_percentile() -> None:
    assert math.isnan(Histogram().percentile_ms(50))
    assert Histogram().count == 0
