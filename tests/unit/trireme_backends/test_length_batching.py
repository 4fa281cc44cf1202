"""The choice of waiting texts that are encoded together."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from trireme_backends.length_batching import choose_batch

lengths = st.lists(st.integers(min_value=1, max_value=256), min_size=1, max_size=64)


@given(lengths)
def test_the_oldest_text_is_always_in_the_next_batch(waiting: list[int]) -> None:
    chosen = choose_batch(waiting)
    assert 0 in chosen
    assert len(set(chosen)) == len(chosen)


@given(lengths)
def test_a_batch_is_contiguous_in_length(waiting: list[int]) -> None:
    chosen = choose_batch(waiting)
    taken = [waiting[index] for index in chosen]
    left = [length for index, length in enumerate(waiting) if index not in chosen]
    assert not [length for length in left if min(taken) < length < max(taken)]


@given(lengths)
def test_a_batch_wastes_no_more_than_the_oldest_text_alone(waiting: list[int]) -> None:
    taken = [waiting[index] for index in choose_batch(waiting)]
    padding = len(taken) * max(taken) - sum(taken)
    assert (8 + padding) / len(taken) <= 8


def test_texts_of_equal_length_form_one_batch() -> None:
    assert sorted(choose_batch([20] * 32)) == list(range(32))


def test_a_long_text_does_not_pad_short_ones() -> None:
    assert sorted(choose_batch([10, 200, 11, 9])) == [0, 2, 3]


def test_the_size_of_a_run_is_limited() -> None:
    assert len(choose_batch([256] * 64)) == 4
