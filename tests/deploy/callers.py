"""Callers from outside, who ask all the time and try nothing twice: what fails for them, the platform has let fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

# Together they keep the machine busy, not overloaded.
PAUSE_SECONDS = 0.05


@dataclass(slots=True)
class Answers:
    """What callers got: ``failures`` in their words, and the longest that one waited."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)
    longest_seconds: float = 0.0

    def __str__(self) -> str:
        return f"{self.answered} answered, {len(self.failures)} failed, longest {self.longest_seconds:.2f} s"


@contextmanager
def callers(asks: Sequence[Callable[[], None]]) -> Iterator[Answers]:
    """Ask with a thread for each of ``asks``, which raise what went wrong, for the time of the block."""
    answers, lock, over = Answers(), threading.Lock(), threading.Event()

    def call(ask: Callable[[], None]) -> None:
        while not over.wait(PAUSE_SECONDS):
            started = time.monotonic()
            try:
                ask()
            except Exception as error:  # each kind of failure counts
                with lock:
                    answers.failures.append(f"{type(error).__name__}: {error}")
            else:
                with lock:
                    answers.answered += 1
                    answers.longest_seconds = max(answers.longest_seconds, time.monotonic() - started)

    threads = [threading.Thread(target=call, args=(ask,)) for ask in asks]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        over.set()
        for thread in threads:
            thread.join()
