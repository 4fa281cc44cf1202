"""Threads for calls that cannot be cancelled, and a timer."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

Task = Callable[[], None]


class ThreadPool:
    """A thread pool without an upper limit: the caller limits the number of tasks.

    Threads are daemons, unlike those of ``concurrent.futures``: a call that never ends must not keep the process alive.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Task | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0
        self._threads = 0

    def run(self, task: Task) -> None:
        """Run ``task`` in an idle thread, or in a new one."""
        with self._lock:
            start = self._idle == 0
            if start:
                self._threads += 1
            else:
                self._idle -= 1
        if start:
            threading.Thread(target=self._work, args=(task,), daemon=True, name="router-call").start()
        else:
            self._tasks.put(task)

    def close(self) -> None:
        """End the idle threads; busy ones end with their task."""
        with self._lock:
            threads, self._threads = self._threads, 0
        for _ in range(threads):
            self._tasks.put(None)

    def _work(self, task: Task | None) -> None:
        while task is not None:
            task()
            with self._lock:
                self._idle += 1
            task = self._tasks.get()


class Timer:
    """Runs callbacks at their time, one after the other, in one thread.

    Most callbacks are obsolete long before their time. They cost no wake-up: they are dropped when the thread wakes for
    another one.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Callable[[], bool], Task]] = []
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        threading.Thread(target=self._run, daemon=True, name="router-timer").start()

    def at(self, moment: float, is_needed: Callable[[], bool], task: Task) -> None:
        """Run ``task`` at ``moment`` of the monotonic clock if it ``is_needed`` then."""
        with self._changed:
            heapq.heappush(self._heap, (moment, next(self._numbers), is_needed, task))
            if self._heap[0][3] is task:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._drop_unneeded()
                while not self._closed and (not self._heap or self._heap[0][0] > time.monotonic()):
                    self._changed.wait(self._heap[0][0] - time.monotonic() if self._heap else None)
                    self._drop_unneeded()
                if self._closed:
                    return
                task = heapq.heappop(self._heap)[3]
            task()

    def _drop_unneeded(self) -> None:
        while self._heap and not self._heap[0][2]():
            heapq.heappop(self._heap)
