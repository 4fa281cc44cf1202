from __future__ import annotations

import math

import pytest
from trireme.processes.server_metrics import Metrics, MetricsWindow, quantile

BEFORE = 'a{x="1",y="p"} 10\na{x="2",y="p"} 5\n'
AFTER = 'a{x="1",y="p"} 16\na{x="2",y="p"} 3\na{x="1",y="q"} 4\n'


def window(before: str, after: str) -> MetricsWindow:
    return MetricsWindow(Metrics.parse(before), Metrics.parse(after))


def test_counts_are_summed_over_the_other_labels() -> None:
    assert window(BEFORE, AFTER).counts("a", "x") == {("1",): 10, ("2",): 3}
    assert window(BEFORE, AFTER).counts("a", "x", y="q") == {("1",): 4}


def test_a_decreased_counter_restarted_at_zero() -> None:
    assert window('a{x="1"} 100\n', 'a{x="1"} 3\n').counts("a", "x") == {("1",): 3}


@pytest.mark.parametrize(("before", "after"), [("", AFTER), (BEFORE, "")])
def test_an_incomplete_window_has_no_counts(before: str, after: str) -> None:
    assert window(before, after).counts("a", "x") == {}


def test_an_unreachable_server_has_no_metrics() -> None:
    assert Metrics.read("127.0.0.1:9", 1.0).samples == {}


@pytest.mark.parametrize(
    ("share", "expected"),
    [(0.5, 10.0), (0.25, 5.0), (0.75, 15.0), (0.95, 20.0)],
)
def test_quantile_is_interpolated_within_a_bucket_and_bounded_by_the_last(share: float, expected: float) -> None:
    assert quantile(share, {10.0: 50, 20.0: 90 if share > 0.9 else 100, math.inf: 100}) == pytest.approx(expected)


def test_no_observations_have_no_quantile() -> None:
    assert quantile(0.5, {}) is None
    assert quantile(0.5, {1.0: 0, math.inf: 0}) is None
