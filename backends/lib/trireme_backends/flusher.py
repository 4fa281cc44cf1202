"""Sends metrics in the background.

Updating a metric is a message to the server and takes 20 microseconds: too much for every request or token. Updates are
therefore collected, and a thread aggregates and sends them every half second.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

_FLUSH_SECONDS = 0.5


class Flusher:
    """Calls ``flush`` every half second in its own thread, and a last time on ``close``."""

    def __init__(self, flush: Callable[[], None], name: str) -> None:
        self._flush = flush
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name=name)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=2.0)

    def _run(self) -> None:
        while not self._closed.wait(_FLUSH_SECONDS):
            self._flush()
        self._flush()
