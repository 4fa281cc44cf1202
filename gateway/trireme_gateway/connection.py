"""The caller's connection: bodies of bounded size, callers who leave, callers who do not read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Coroutine
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from trireme_gateway.errors import ApiError
from trireme_gateway.settings import MOST_BODY_BYTES
from trireme_gateway.visit import Visit

T = TypeVar("T")

# From the connection to the end of a request's head, and then to the end of its body.
HEAD_SECONDS = 30.0
_BODY_SECONDS = 60.0
# Of a body that is too large so much is read and thrown away: who is cut off while sending sees no answer.
_MOST_DISCARDED_BYTES = 32 << 20


class PatientProtocol(HttpToolsProtocol):
    """uvicorn's protocol; hands the connection on, and ends one that sends no whole request."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._end_if_silent)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport

    def _end_if_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


async def read_body(request: Request) -> bytes:
    """The body.

    Raises:
        ApiError: 413, it is too large; 408, it does not come.
        ClientDisconnect: the caller left.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdigit() and int(announced) > _MOST_DISCARDED_BYTES:
        raise _too_large()
    parts: list[bytes] = []

    async def read() -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size <= MOST_BODY_BYTES:
                parts.append(part)
            elif size > _MOST_DISCARDED_BYTES:
                break
        if size > MOST_BODY_BYTES:
            raise _too_large()

    try:
        await asyncio.wait_for(read(), _BODY_SECONDS)
    except asyncio.TimeoutError:
        problem = f"The request's body did not come within {_BODY_SECONDS:.0f} s"
        raise ApiError(408, problem, code="timeout", headers={"connection": "close"}) from None
    return b"".join(parts)


def _too_large() -> ApiError:
    problem = f"The request's body is too large: at most {MOST_BODY_BYTES} bytes are taken"
    # What may still be on its way would be read as the next request.
    return ApiError(413, problem, code="request_too_large", headers={"connection": "close"})


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do ``work``; it is cancelled when the caller leaves.

    Raises:
        ClientDisconnect: the caller left.
    """
    doing, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait({doing, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            return doing.result()
        raise ClientDisconnect
    finally:
        for task in (doing, leaving):
            task.cancel()
        # What was cancelled ends before its caller goes on: nothing is left to run behind a request.
        await asyncio.gather(doing, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events: ``first``, and what comes from ``events``, which is closed in any case.

    An ``ApiError`` from it becomes the last event, and the connection ends. A caller who reads nothing for
    ``stall_seconds`` is cut off; meanwhile nothing more is taken from ``events``.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, events: AsyncGenerator[bytes, None], visit: Visit, stall_seconds: float) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first, self._events, self._visit, self._stall_seconds = first, events, visit, stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with contextlib.suppress(ClientDisconnect):
            await unless_gone(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        loop, visit = asyncio.get_running_loop(), self._visit
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async with contextlib.aclosing(self._events) as events:
            try:
                async for event in events:
                    # A timer costs a tenth of wait_for; after a cut the send returns and the watcher sees it.
                    stalled = loop.call_later(self._stall_seconds, self._cut_off)
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    stalled.cancel()
            except ApiError as error:
                visit.fault = error.message
                event = b"data: " + error.json() + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": True})
                visit.transport.close()  # after what is written; without the end of the body, as it has none
                await asyncio.Event().wait()  # until the watcher sees it
        await send({"type": "http.response.body", "body": b""})

    def _cut_off(self) -> None:
        self._visit.fault = f"the caller read nothing for {self._stall_seconds:g} s"
        self._visit.transport.abort()
