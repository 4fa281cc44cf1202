"""Tokens to text as they come: no half characters, and nothing of a stop string."""

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


class StopStringFilter:
    """Ends a stream of text at the first stop string, however the text is cut into pieces.

    The stop string that is complete first counts. Text that may be the beginning of one is held back.

    Example:
        >>> stops = StopStringFilter(["END"])
        >>> stops.push("a piece E"), stops.push("N"), stops.push("D and more"), stops.stopped
        ('a piece ', '', '', True)
    """

    def __init__(self, stop: Sequence[str], *, include: bool = False) -> None:
        """``include``: the stop string stays in the text."""
        self._stop, self._include = tuple(stop), include
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is certain so far; ``stopped`` is set when it ended at a stop string."""
        if self.stopped:
            return ""
        if not self._stop:
            return text
        self._held += text
        found = [(place + len(stop), place) for stop in self._stop if (place := self._held.find(stop)) >= 0]
        if found:
            # At equal ends the longer one.
            end, place = min(found)
            certain, self._held, self.stopped = self._held[: end if self._include else place], "", True
            return certain
        split = len(self._held) - max(_overlap(self._held, stop) for stop in self._stop)
        certain, self._held = self._held[:split], self._held[split:]
        return certain

    def rest(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest suffix of ``text`` that is a prefix of ``stop``."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
