from __future__ import annotations

import pytest
from trireme_backends.routing.headroom import Headroom


def test_all_of_the_time_is_there_until_an_answer_is_late() -> None:
    assert Headroom().share(now=1000.0) == 1.0


def test_late_answer_takes_a_part_and_time_gives_it_back() -> None:
    headroom = Headroom()
    headroom.late(now=10.0)
    assert headroom.share(now=10.0) == pytest.approx(0.7)
    assert headroom.share(now=11.0) == pytest.approx(0.8)
    assert headroom.share(now=100.0) == 1.0


def test_answers_that_are_late_together_count_once() -> None:
    headroom = Headroom()
    for thousandth in range(100):
        headroom.late(now=10.0 + thousandth / 1000)
    assert headroom.share(now=10.0) == pytest.approx(0.7)


def test_a_little_is_always_left_to_find_out_whether_it_is_over() -> None:
    headroom = Headroom()
    for second in range(1000):
        headroom.late(now=10.0 + second / 5)
    assert 0 < headroom.share(now=210.0) < 0.1
