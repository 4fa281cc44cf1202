"""Removes stop strings from a stream, for engines that leave them in the text."""

from __future__ import annotations

from collections.abc import Sequence


class StopStringFilter:
    """Truncates a stream of text before the first stop string, which may span chunks.

    Text that may be the beginning of a stop string is held back until the next text decides.

    Example:
        >>> cut = StopStringFilter(["END"])
        >>> cut.feed("a chunk E"), cut.feed("N"), cut.feed("D and more"), cut.stopped
        ('a chunk ', '', '', True)
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = tuple(stop)
        self._held = ""
        self.stopped = False

    def feed(self, text: str) -> str:
        """Add text; returns the text that can be sent now."""
        if self.stopped:
            return ""
        self._held += text
        found = [position for stop in self._stop if (position := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            released, self._held = self._held[: min(found)], ""
            return released
        keep = max((length for stop in self._stop for length in _overlaps(self._held, stop)), default=0)
        released, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return released

    def rest(self) -> str:
        """The text held back, once the stream has ended."""
        released, self._held = self._held, ""
        return released


def _overlaps(text: str, stop: str) -> list[int]:
    """The lengths of the suffixes of ``text`` that are prefixes of ``stop``."""
    return [length for length in range(1, min(len(text), len(stop) - 1) + 1) if text.endswith(stop[:length])]
