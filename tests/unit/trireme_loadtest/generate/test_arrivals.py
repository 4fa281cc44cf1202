from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trireme.errors import ConfigError
from trireme_loadtest.errors import SpecError
from trireme_loadtest.generate.arrivals import Arrivals


def test_a_constant_rate_is_evenly_spaced() -> None:
    assert Arrivals.parse("constant:4").times(1.0, seed=1).tolist() == [0.0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_the_rate_and_the_scatter_of_independent_callers() -> None:
    times = Arrivals.parse("poisson:100").times(200.0, seed=1)
    gaps = np.diff(times)

    assert len(times) / 200 == pytest.approx(100, rel=0.05)
    # The gaps of a Poisson process are exponential: their deviation equals their mean.
    assert np.std(gaps) == pytest.approx(np.mean(gaps), rel=0.05)


def test_equal_seeds_give_equal_times() -> None:
    arrivals = Arrivals.parse("poisson:50")

    assert arrivals.times(5.0, seed=3).tolist() == arrivals.times(5.0, seed=3).tolist()
    assert arrivals.times(5.0, seed=3).tolist() != arrivals.times(5.0, seed=4).tolist()


def test_a_ramp_grows_steadily() -> None:
    times = Arrivals.parse("ramp:10-110").times(100.0, seed=1)
    first, last = np.sum(times < 10), np.sum(times >= 90)

    assert first / 10 == pytest.approx(15, rel=0.25)
    assert last / 10 == pytest.approx(105, rel=0.15)


def test_a_ramp_may_fall() -> None:
    times = Arrivals.parse("ramp:110-10").times(100.0, seed=1)

    assert np.sum(times < 10) > 5 * np.sum(times >= 90)


def test_bursts_come_at_the_end_of_every_period() -> None:
    times = Arrivals.parse("burst:10-200/10/1").times(100.0, seed=1)
    in_burst = times % 10 >= 9

    assert np.sum(in_burst) / 10 == pytest.approx(200, rel=0.1)
    assert np.sum(~in_burst) / 90 == pytest.approx(10, rel=0.2)


def test_a_trace_is_replayed_as_recorded_up_to_the_end_of_the_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    trace.write_text("# recorded on Monday\n0.5\n0.1\n\n7\n")

    assert Arrivals.parse(f"trace:{trace}").times(5.0, seed=1).tolist() == [0.1, 0.5]


def test_a_trace_with_an_invalid_line_is_rejected_with_its_number(tmp_path: Path) -> None:
    trace = tmp_path / "trace.txt"
    trace.write_text("0.1\nyesterday\n")

    with pytest.raises(ConfigError, match=r"trace\.txt:2: 'yesterday' is not a time in seconds"):
        Arrivals.parse(f"trace:{trace}")


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("poisson:0", "must be above zero"),
        ("poisson:-3", "must be above zero"),
        ("constant:nan", "have no known form"),
        ("constant:1e999", "must be above zero|exceeds"),
        ("poisson:1000000", "exceeds the limit of 100000 per second"),
        ("poisson:", "have no known form"),
        ("often:5", "have no known form"),
        ("ramp:5", "have no known form"),
        ("ramp:0-10", "must be above zero"),
        ("constant:1.2.3", "is not a number"),
        ("burst:1-10/5/5", "does not fit into every 5 s"),
        ("trace:", "have no known form"),
    ],
)
def test_an_invalid_spec_is_rejected_in_one_sentence(spec: str, problem: str) -> None:
    with pytest.raises(SpecError, match=problem) as raised:
        Arrivals.parse(spec)

    assert "\n" not in str(raised.value)


def test_a_run_too_short_for_one_request_is_rejected() -> None:
    with pytest.raises(SpecError, match=r"send no request within 0\.1 s"):
        Arrivals.parse("constant:1").times(0.1, seed=1)


def test_a_run_of_absurdly_many_requests_is_rejected() -> None:
    with pytest.raises(SpecError, match="5000000"):
        Arrivals.parse("poisson:100000").times(3600.0, seed=1)
