from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trireme_backends.generation.stop_strings import StopStringFilter


def filtered(stop: list[str], chunks: list[str]) -> str:
    cut = StopStringFilter(stop)
    return "".join([*(cut.feed(chunk) for chunk in chunks), cut.rest()])


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        (["one END two"], "one "),
        (["one E", "N", "D two"], "one "),
        (["one E", "ND of it"], "one "),
        (["one EN", "E"], "one ENE"),
        (["EEND"], "E"),
        (["one EN"], "one EN"),
    ],
)
def test_the_text_ends_before_a_stop_string_that_may_span_chunks(chunks: list[str], expected: str) -> None:
    assert filtered(["END"], chunks) == expected


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_chunk_boundaries_do_not_change_the_result(text: str, stop: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ends = [position for word in stop if (position := text.find(word)) >= 0]
    # The stop string that is complete first wins; of those that end together, the one that begins first.
    complete = min((text.find(word) + len(word) for word in stop if word in text), default=None)
    if complete is None:
        assert filtered(stop, chunks) == text
    else:
        result = filtered(stop, chunks)
        assert text.startswith(result)
        assert min(ends) <= len(result) <= complete


def test_text_is_held_back_only_while_it_may_be_a_stop_string() -> None:
    cut = StopStringFilter(["\n\n"])
    assert cut.feed("a line\n") == "a line"
    assert cut.feed("b") == "\nb"
