"""Stop strings on the caller's side, for engines that leave them in the text."""

from __future__ import annotations

from collections.abc import Sequence


class StopStringFilter:
    """Cuts a stream of text before the first stop string, however its pieces are cut.

    Text that may be the beginning of a stop string is held back until it is decided.

    Example:
        >>> cut = StopStringFilter(["END"])
        >>> cut.feed("a piece E"), cut.feed("N"), cut.feed("D and more"), cut.stopped
        ('a piece ', '', '', True)
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """The text that may be told now."""
        if self.stopped:
            return ""
        self._held += text
        found = [position for stop in self._stop if (position := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            told, self._held = self._held[: min(found)], ""
            return told
        keep = max((length for stop in self._stop for length in _shared(self._held, stop)), default=0)
        told, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return told

    def rest(self) -> str:
        """What was held back, once no more text comes."""
        told, self._held = self._held, ""
        return told


def _shared(text: str, stop: str) -> list[int]:
    """The lengths of the ends of ``text`` with which ``stop`` begins."""
    return [length for length in range(1, min(len(text), len(stop) - 1) + 1) if text.endswith(stop[:length])]
