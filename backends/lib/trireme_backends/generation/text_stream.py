"""Decodes a stream of tokens into text, without incomplete characters and stop strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

# Depending on the tokenizer, an incomplete character decodes to this or to nothing.
_INCOMPLETE = "\ufffd"


class TokenDecoder:
    """Decodes tokens incrementally; the results, joined, are the text of all tokens.

    A token's text may depend on the preceding token, so the two are decoded together.

    Example:
        >>> decoder = TokenDecoder(tokenizer.decode)
        >>> [decoder.push([token]) for token in tokens], decoder.rest()
    """

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._known: list[int] = []
        self._new: list[int] = []

    def push(self, tokens: Sequence[int]) -> str:
        """Add tokens; returns the text that is complete, which is empty within a character."""
        self._new += tokens
        text = self._text()
        if not text or text.endswith(_INCOMPLETE):
            return ""
        self._known, self._new = self._new, []
        return text

    def rest(self) -> str:
        """The remaining text after the last token, with an incomplete character as the tokenizer decodes it."""
        text = self._text()
        self._known, self._new = [], []
        return text

    def _text(self) -> str:
        if not self._new:
            return ""
        return self._decode(self._known + self._new)[len(self._decode(self._known)) if self._known else 0 :]


class StopMatcher:
    """Ends a text at the first complete stop string, and holds back text that may be the beginning of one."""

    def __init__(self, stops: Sequence[str], *, include: bool) -> None:
        """``include``: keep the stop string in the text."""
        self._stops, self._include = stops, include
        self._held = ""
        self.matched = False

    def push(self, text: str) -> str:
        """Add text; returns the text that can be sent now. Sets ``matched`` at a stop string."""
        if not self._stops:
            return text
        self._held += text
        places = [(self._held.find(stop), stop) for stop in self._stops]
        hits = [(place, stop) for place, stop in places if place >= 0]
        if hits:
            # The stop string that is complete first: at equal places the shorter one.
            place, stop = min(hits, key=lambda hit: (hit[0] + len(hit[1]), hit[0]))
            released, self._held, self.matched = self._held[: place + len(stop) if self._include else place], "", True
            return released
        held = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        released, self._held = self._held[: len(self._held) - held], self._held[len(self._held) - held :]
        return released

    def rest(self) -> str:
        """The text held back, once the stream has ended."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of ``text`` that is a prefix of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
