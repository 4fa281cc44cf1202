"""Two ways to send a series of requests: open loop and closed loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterable

# Sends the request with a given number, from 0.
Send = Callable[[int], Awaitable[None]]


async def open_loop(send: Send, times: Iterable[float], start: float) -> None:
    """Send a request at each of ``times``, whether or not earlier ones have a response, and wait for all of them.

    Latency counts from the intended send time. If a server freezes for a second, all requests of that second show it,
    whereas a closed loop would have sent one and waited (coordinated omission).
    Source: Tene, "How NOT to measure latency"; Schroeder et al., "Open versus closed: a cautionary tale", NSDI 2006.

    Exceptions of ``send`` are raised at the end.

    Args:
        times: ascending, in seconds from ``start``, a ``time.monotonic()``.
    """
    loop = asyncio.get_running_loop()
    running: set[asyncio.Future[None]] = set()
    failures: list[BaseException] = []
    all_sent = asyncio.Event()

    def launch(number: int) -> None:
        request = asyncio.ensure_future(send(number))
        running.add(request)
        request.add_done_callback(finish)

    def finish(request: asyncio.Future[None]) -> None:
        running.discard(request)
        if not request.cancelled() and (failure := request.exception()):
            failures.append(failure)

    def pace() -> None:
        for number, at in enumerate(times):
            while (wait := start + at - time.monotonic()) > 0:
                time.sleep(wait)
            loop.call_soon_threadsafe(launch, number)
        loop.call_soon_threadsafe(all_sent.set)

    # The event loop's timers have a resolution of a millisecond, as much as a request may take; a sleeping thread is
    # exact to a tenth of that.
    threading.Thread(target=pace, daemon=True).start()
    await all_sent.wait()
    await asyncio.gather(*running, return_exceptions=True)
    if failures:
        raise failures[0]


async def closed_loop(send: Send, concurrency: int, keep_sending: Callable[[], bool]) -> None:
    """Keep ``concurrency`` requests running: each caller sends its next request when it has its response.

    Shows what a server can do at a given concurrency, but not what callers experience if the server falls behind,
    because then it sends less; use ``open_loop`` for that. An exception of ``send`` ends the loop.
    """
    numbers = itertools.count()

    async def caller() -> None:
        while keep_sending():
            await send(next(numbers))

    callers = [asyncio.create_task(caller()) for _ in range(concurrency)]
    try:
        # Not gather, which cancels them as well: a second cancellation would interrupt how a request ends.
        ended, _ = await asyncio.wait(callers, return_when=asyncio.FIRST_EXCEPTION)
    finally:
        for one in callers:
            one.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
    for one in ended:
        one.result()
