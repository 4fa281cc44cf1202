"""Blocking and asyncio runtimes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from trireme_client.endpoint import Endpoint
from trireme_client.grpc_transport import AsyncGrpcTransport, BlockingGrpcTransport
from trireme_client.transport import PendingCall, Timer, Transport, TransportOptions, run

log = logging.getLogger("trireme_client")

Step = Callable[[], Coroutine[Any, Any, None]]
A = TypeVar("A")
B = TypeVar("B")

# Enough to hide round trips and to fill the server's batches, too few to fill its queues.
_MAX_CONCURRENT_REQUESTS = 4


class BlockingRuntime:
    """Threads and blocking waits."""

    def connect(self, endpoint: Endpoint, options: TransportOptions) -> Transport:
        if endpoint.scheme == "grpc":
            return BlockingGrpcTransport(endpoint, options)
        from trireme_client.http_transport import BlockingHttpTransport  # the extra `http` is optional

        return BlockingHttpTransport(endpoint, options)

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    async def wait_for_any(self, pending: Sequence[PendingCall], timeout_s: float) -> None:
        ended = threading.Event()
        for one in pending:
            one.add_done_callback(lambda _: ended.set())
        ended.wait(timeout_s)

    async def map(self, step: Callable[[A], Coroutine[Any, Any, B]], items: Sequence[A]) -> list[B]:
        return [await step(item) for item in items]

    def call_later(self, delay_s: float, act: Callable[[], None]) -> Timer:
        timer = threading.Timer(delay_s, act)
        timer.daemon = True
        timer.start()
        return timer

    def run_periodically(self, step: Step, interval_s: float) -> _PeriodicThread:
        return _PeriodicThread(step, interval_s)

    async def resolve(self, host: str, port: int) -> list[str]:
        return _addresses(host, port)


class _PeriodicThread:
    def __init__(self, step: Step, interval_s: float) -> None:
        self._step, self._interval_s = step, interval_s
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="trireme-client-health", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                run(self._step())
            except Exception:
                log.exception("checking the replicas failed; the next check follows")
            self._stopped.wait(self._interval_s)

    async def stop(self) -> None:
        self._stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


class AsyncioRuntime:
    """The running event loop."""

    def connect(self, endpoint: Endpoint, options: TransportOptions) -> Transport:
        if endpoint.scheme == "grpc":
            return AsyncGrpcTransport(endpoint, options)
        from trireme_client.http_transport import AsyncHttpTransport  # the extra `http` is optional

        return AsyncHttpTransport(endpoint, options)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def wait_for_any(self, pending: Sequence[PendingCall], timeout_s: float) -> None:
        ended = asyncio.Event()
        for one in pending:
            one.add_done_callback(lambda _: ended.set())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(ended.wait(), timeout_s)

    async def map(self, step: Callable[[A], Coroutine[Any, Any, B]], items: Sequence[A]) -> list[B]:
        if len(items) < 2:
            return [await step(item) for item in items]
        todo = iter(enumerate(items))
        done: dict[int, B] = {}

        async def work() -> None:
            for index, item in todo:
                done[index] = await step(item)

        workers = [asyncio.create_task(work()) for _ in range(min(len(items), _MAX_CONCURRENT_REQUESTS))]
        try:
            await asyncio.gather(*workers)
        finally:
            # After a failure no request of the call continues.
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [done[index] for index in range(len(items))]

    def call_later(self, delay_s: float, act: Callable[[], None]) -> Timer:
        return asyncio.get_running_loop().call_later(delay_s, act)

    def run_periodically(self, step: Step, interval_s: float) -> _PeriodicAsyncioTask:
        return _PeriodicAsyncioTask(step, interval_s)

    async def resolve(self, host: str, port: int) -> list[str]:
        return await asyncio.get_running_loop().run_in_executor(None, _addresses, host, port)


class _PeriodicAsyncioTask:
    def __init__(self, step: Step, interval_s: float) -> None:
        self._step, self._interval_s = step, interval_s
        self._stopped = False
        self._task = asyncio.get_running_loop().create_task(self._run(), name="trireme-client-health")

    async def _run(self) -> None:
        # A step may mistake its cancellation for that of a call whose transport closed at the same time, and return.
        while not self._stopped:
            try:
                await self._step()
            except Exception:
                log.exception("checking the replicas failed; the next check follows")
            if not self._stopped:
                await asyncio.sleep(self._interval_s)

    async def stop(self) -> None:
        self._stopped = True
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return sorted({str(entry[4][0]) for entry in found})
