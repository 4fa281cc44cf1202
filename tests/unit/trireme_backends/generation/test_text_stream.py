from __future__ import annotations

import pytest
from trireme_backends.generation.text_stream import StopMatcher, TokenDecoder


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
def test_text_ends_before_the_first_stop_string(stops, text, expected, step):
    matcher = StopMatcher(stops, include=False)
    chunks = []
    for place in range(0, len(text), step):
        chunks.append(matcher.push(text[place : place + step]))
        if matcher.matched:
            break
    assert "".join(chunks) + matcher.rest() == expected
    assert matcher.matched == (expected != text)


def test_an_included_stop_string_is_kept():
    stop = StopMatcher(["."], include=True)
    assert stop.push("One. Two") == "One."


def test_text_that_cannot_be_a_stop_string_is_released_at_once():
    stop = StopMatcher(["END"], include=False)
    assert [stop.push("a"), stop.push("E"), stop.push("x"), stop.push("EN")] == ["a", "", "Ex", ""]
    assert stop.rest() == "EN"
