from __future__ import annotations

import asyncio
import time

import pytest
from trireme_loadtest.generate.loops import closed_loop, open_loop


def test_an_open_loop_sends_due_requests_without_waiting_for_earlier_ones() -> None:
    sent: list[float] = []
    start = time.monotonic()

    async def send(_: int) -> None:
        sent.append(time.monotonic() - start)
        await asyncio.sleep(0.3)

    asyncio.run(open_loop(send, [0.0, 0.05, 0.1], start))

    assert time.monotonic() - start > 0.4
    assert all(0 <= at - due < 0.15 for at, due in zip(sent, [0.0, 0.05, 0.1], strict=True))


def test_a_closed_loop_has_as_many_requests_running_as_it_has_callers() -> None:
    running, most, answered = 0, 0, 0

    async def send(_: int) -> None:
        nonlocal running, most, answered
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running, answered = running - 1, answered + 1

    asyncio.run(closed_loop(send, 3, lambda: answered < 20))

    assert most == 3
    assert running == 0


@pytest.mark.parametrize("loop", ["open", "closed"])
def test_an_exception_while_sending_ends_the_loop(loop: str) -> None:
    async def send(_: int) -> None:
        raise ConnectionError("gone")

    running = open_loop(send, [0.0], time.monotonic()) if loop == "open" else closed_loop(send, 2, lambda: True)
    with pytest.raises(ConnectionError, match="gone"):
        asyncio.run(running)


def test_a_cancelled_closed_loop_waits_until_its_requests_have_ended_in_order() -> None:
    ended: list[int] = []

    async def send(number: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.02 * (number + 1))
            ended.append(number)

    async def run() -> None:
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(closed_loop(send, 3, lambda: True), 0.05)

    asyncio.run(run())

    assert sorted(ended) == [0, 1, 2]
