"""Tokens to text as they come: no half characters, and nothing of a stop text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# What decoding makes of bytes that are not yet a character: this, or nothing, after the tokenizer.
_INCOMPLETE = "\ufffd"


class TokenDecoder:
    """Gives the text of tokens one after the other; joined, it is the text of all of them.

    A token's text may depend on the one before it, so each is decoded together with that one.

    Example:
        >>> decoder = TokenDecoder(tokenizer.decode)
        >>> [decoder.push([token]) for token in tokens], decoder.rest()
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._known: list[int] = []
        self._new: list[int] = []

    def push(self, tokens: Sequence[int]) -> str:
        """The text that is complete now; empty while a character is not."""
        self._new += tokens
        text = self._text()
        if not text or text.endswith(_INCOMPLETE):
            return ""
        self._known, self._new = self._new, []
        return text

    def rest(self) -> str:
        """What is left when no more tokens come, as the tokenizer decodes half a character."""
        text = self._text()
        self._known, self._new = [], []
        return text

    def _text(self) -> str:
        if not self._new:
            return ""
        return self._decode(self._known + self._new)[len(self._decode(self._known)) if self._known else 0 :]


class StopTexts:
    """Ends a text at the first of some texts, and holds back what may yet become one."""

    def __init__(self, stops: Sequence[str], *, include: bool) -> None:
        """``include``: the stop text stays in the text."""
        self._stops, self._include = stops, include
        self._held = ""
        self.found = False

    def push(self, text: str) -> str:
        """What can be told of the text so far; ``found`` is set when a stop text was in it."""
        if not self._stops:
            return text
        self._held += text
        places = [(self._held.find(stop), stop) for stop in self._stops]
        hits = [(place, stop) for place, stop in places if place >= 0]
        if hits:
            # The one that is whole first: at equal places the shorter.
            place, stop = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            told, self._held, self.found = self._held[: place + len(stop) if self._include else place], "", True
            return told
        held = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        told, self._held = self._held[: len(self._held) - held], self._held[len(self._held) - held :]
        return told

    def rest(self) -> str:
        """What was held back, when no more comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many of the last characters of ``text`` are the first of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
