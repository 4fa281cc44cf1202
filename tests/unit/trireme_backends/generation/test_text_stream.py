from __future__ import annotations

import pytest
from trireme_backends.generation.text_stream import StopTexts, TokenDecoder


def decode_bytes(tokens: list[int]) -> str:
    """A token is a byte; like a byte-level tokenizer that leaves out what is no character."""
    return bytes(tokens).decode(errors="ignore")


def decode_replacing(tokens: list[int]) -> str:
    return bytes(tokens).decode(errors="replace")


@pytest.mark.parametrize("decode", [decode_bytes, decode_replacing])
@pytest.mark.parametrize("step", [1, 2, 3, 7])
def test_pieces_of_tokens_are_whole_characters_and_the_whole_text(decode, step):
    text = "aé漢😀 b😀"
    tokens = list(text.encode())
    decoder = TokenDecoder(decode)
    pieces = [decoder.push(tokens[place : place + step]) for place in range(0, len(tokens), step)]
    assert "".join(pieces) + decoder.rest() == text
    assert "\ufffd" not in "".join(pieces)


def test_half_a_character_at_the_end_is_as_the_tokenizer_has_it():
    decoder = TokenDecoder(decode_replacing)
    assert decoder.push(list("a😀".encode())[:3]) == ""
    assert decoder.rest() == "a\ufffd"


@pytest.mark.parametrize(
    ("stops", "text", "told"),
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
def test_text_ends_before_the_first_stop_text(stops, text, told, step):
    found = StopTexts(stops, include=False)
    pieces = []
    for place in range(0, len(text), step):
        pieces.append(found.push(text[place : place + step]))
        if found.found:
            break
    assert "".join(pieces) + found.rest() == told
    assert found.found == (told != text)


def test_included_stop_text_stays():
    stop = StopTexts(["."], include=True)
    assert stop.push("One. Two") == "One."


def test_what_can_be_no_stop_text_is_told_at_once():
    stop = StopTexts(["END"], include=False)
    assert [stop.push("a"), stop.push("E"), stop.push("x"), stop.push("EN")] == ["a", "", "Ex", ""]
    assert stop.rest() == "EN"
