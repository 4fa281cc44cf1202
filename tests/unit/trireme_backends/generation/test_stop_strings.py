from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trireme_backends.generation.stop_strings import StopStringFilter


def told(stop: list[str], pieces: list[str]) -> str:
    cut = StopStringFilter(stop)
    return "".join([*(cut.feed(piece) for piece in pieces), cut.rest()])


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["one END two"], "one "),
        (["one E", "N", "D two"], "one "),
        (["one E", "ND of it"], "one "),
        (["one EN", "E"], "one ENE"),
        (["EEND"], "E"),
        (["one EN"], "one EN"),
    ],
)
def test_the_text_ends_before_the_stop_string_however_it_is_cut(pieces: list[str], expected: str) -> None:
    assert told(["END"], pieces) == expected


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_any_cut_of_a_text_gives_what_the_whole_text_gives(text: str, stop: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ends = [position for word in stop if (position := text.find(word)) >= 0]
    # The stop string that is whole first wins; of those that end together, the one that begins first.
    whole = min((text.find(word) + len(word) for word in stop if word in text), default=None)
    if whole is None:
        assert told(stop, pieces) == text
    else:
        answer = told(stop, pieces)
        assert text.startswith(answer)
        assert min(ends) <= len(answer) <= whole


def test_text_is_held_back_no_longer_than_it_may_be_a_stop_string() -> None:
    cut = StopStringFilter(["\n\n"])
    assert cut.feed("a line\n") == "a line"
    assert cut.feed("b") == "\nb"
