from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trireme_backends.generation.text_stream import StopStringFilter, TokenDecoder


def decode_bytes(tokens: list[int]) -> str:
    """Decodes one byte per token; like a byte-level tokenizer that drops incomplete characters."""
    return bytes(tokens).decode(errors="ignore")


def decode_replacing(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


@pytest.mark.parametrize("decode", [decode_bytes, decode_replacing])
@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_chunks_are_complete_characters_and_add_up_to_the_text(decode, step):
    text = "aé漢😀 b😀"
    tokens = list(text.encode())
    decoder = TokenDecoder(decode)
    chunks = [decoder.push(tokens[place : place + step]) for place in range(0, len(tokens), step)]
    assert "".join(chunks) + decoder.rest() == text
    assert "\ufffd" not in "".join(chunks)


def test_an_incomplete_character_at_the_end_is_decoded_by_the_tokenizer():
    decoder = TokenDecoder(decode_replacing)
    assert decoder.push(list("a😀".encode())[:3]) == ""
    assert decoder.rest() == "a\ufffd"


@pytest.mark.parametrize(
    ("stops", "text", "expected"),
    [
        (["END"], "one END two", "one "),
        (["END"], "one EN two", "one EN two"),
        (["aab"], "aaab", "a"),
        (["two", "one"], "one two", ""),
        (["b", "ab"], "xab", "x"),
        ([], "anything", "anything"),
    ],
)
@pytest.mark.parametrize("step", [1, 2, 100])
def test_text_ends_before_the_first_stop_text(stops, text, expected, step):
    found = StopStringFilter(stops, include=False)
    chunks = []
    for place in range(0, len(text), step):
        chunks.append(found.push(text[place : place + step]))
        if found.stopped:
            break
    assert "".join(chunks) + found.rest() == expected
    assert found.stopped == (expected != text)


def test_included_stop_text_stays():
    stop = StopStringFilter(["."], include=True)
    assert stop.push("One. Two") == "One."


def test_what_can_be_no_stop_text_is_told_at_once():
    stop = StopStringFilter(["END"], include=False)
    assert [stop.push("a"), stop.push("E"), stop.push("x"), stop.push("EN")] == ["a", "", "Ex", ""]
    assert stop.rest() == "EN"


def joined(stop: list[str], chunks: list[str]) -> str:
    stops = StopStringFilter(stop)
    return "".join([*(stops.push(piece) for piece in chunks), stops.rest()])


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
def test_the_text_ends_before_the_stop_string_however_it_is_cut(chunks: list[str], expected: str) -> None:
    assert joined(["END"], chunks) == expected


@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3), st.data())
def test_any_cut_of_a_text_gives_what_the_whole_text_gives(text: str, stop: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    chunks = [text[start:end] for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    ends = [position for word in stop if (position := text.find(word)) >= 0]
    # The stop string that is whole first wins; of those that end together, the one that begins first.
    whole = min((text.find(word) + len(word) for word in stop if word in text), default=None)
    if whole is None:
        assert joined(stop, chunks) == text
    else:
        answer = joined(stop, chunks)
        assert text.startswith(answer)
        assert min(ends) <= len(answer) <= whole


def test_text_is_held_back_no_longer_than_it_may_be_a_stop_string() -> None:
    stops = StopStringFilter(["\n\n"])
    assert stops.push("a line\n") == "a line"
    assert stops.push("b") == "\nb"
