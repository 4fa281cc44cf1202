"""Background traffic of a test or proof: shows what callers see while something happens to the server."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from trireme_loadtest.errors import RequestFailed
from trireme_loadtest.generate.loops import open_loop
from trireme_loadtest.generate.targets import GrpcStreamTarget, RequestSet, connected

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class RequestOutcome(Generic[_Result]):
    """The outcome of one request.

    Attributes:
        name: of its request set.
        due, ended: ``time.monotonic()``.
        result: the return value of ``Traffic.read``; ``None`` if the request failed.
        failure: empty for a success.
    """

    name: str
    due: float
    ended: float
    result: _Result | None
    failure: str

    @property
    def seconds(self) -> float:
        """Time since the request was due, so that a frozen server shows in all requests that it delays."""
        return self.ended - self.due


class Traffic(Generic[_Result]):
    """An open loop over request sets in turn, in its own thread, until the end of the block.

    Args:
        read: the result of a response to a request of the named set; a ``ValueError`` makes the request a failure.

    Example:
        >>> with Traffic(requests, 200.0, read_version) as traffic:
        ...     release()
        >>> traffic.failures
        []
    """

    def __init__(
        self,
        requests: Sequence[RequestSet],
        requests_per_second: float,
        read: Callable[[str, bytes], _Result],
        deadline_seconds: float = 30.0,
    ) -> None:
        self.outcomes: list[RequestOutcome[_Result]] = []
        self.requests_per_second = requests_per_second
        self._requests, self._read, self._deadline_seconds = requests, read, deadline_seconds
        self._stop = threading.Event()
        self._executor = ThreadPoolExecutor(1, "traffic")

    def __enter__(self) -> Traffic[_Result]:
        self._running = self._executor.submit(lambda: asyncio.run(self._run()))
        return self

    def __exit__(self, *_: object) -> None:
        """Stop sending and wait for every response."""
        self._stop.set()
        self._executor.shutdown()
        self._running.result()

    @property
    def failures(self) -> list[str]:
        return [f"{one.name} after {one.seconds:.2f} s: {one.failure}" for one in self.outcomes if one.failure]

    async def _run(self) -> None:
        async with connected(self._requests, self._deadline_seconds) as targets:
            start = time.monotonic()

            async def send(number: int) -> None:
                turn, index = divmod(number, len(self._requests))
                requests, target = self._requests[index], targets[index]
                assert not isinstance(target, GrpcStreamTarget), "a stream has no single response"
                result, failure = None, ""
                try:
                    response = await target.send(requests.bodies[turn % len(requests.bodies)])
                    result = self._read(requests.name, response)
                except (RequestFailed, ValueError) as error:
                    failure = str(error)
                due = start + number / self.requests_per_second
                self.outcomes.append(RequestOutcome(requests.name, due, time.monotonic(), result, failure))

            times = (number / self.requests_per_second for number in itertools.count())
            await open_loop(send, itertools.takewhile(lambda _: not self._stop.is_set(), times), start)


class ClientThreads:
    """A closed loop of blocking calls, each caller in its own thread, until the end of the block.

    Use it to test a client library; to load a server, ``Traffic`` is cheaper.

    Attributes:
        seconds: of each call that succeeded.
    """

    def __init__(self, calls: Sequence[Callable[[], object]], pause_seconds: float = 0.0) -> None:
        self.seconds: list[float] = []
        self.failures: list[Exception] = []
        self._pause_seconds = pause_seconds
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._repeat, args=[call]) for call in calls]

    def __enter__(self) -> ClientThreads:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _repeat(self, call: Callable[[], object]) -> None:
        while not self._stop.wait(self._pause_seconds):
            began = time.perf_counter()
            try:
                call()
            except Exception as error:
                self.failures.append(error)
            else:
                self.seconds.append(time.perf_counter() - began)
