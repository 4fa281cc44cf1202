"""The caller's connection: bounded bodies, disconnects, and callers that stop reading."""

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
from trireme_gateway.request_context import RequestContext
from trireme_gateway.settings import MOST_BODY_BYTES

T = TypeVar("T")

# Time limits for the request's head, counted from the connection, and then for its body.
HEAD_SECONDS = 30.0
_BODY_SECONDS = 60.0
# Up to this size a body that is too large is read and discarded: a client cut off while sending sees no response.
_MOST_DISCARDED_BYTES = 32 << 20


class RequestTimeoutProtocol(HttpToolsProtocol):
    """uvicorn's protocol with a timeout for the request's head; exposes the transport in the scope's state."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._close_if_no_request)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["transport"] = self.transport

    def _close_if_no_request(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


async def read_body(request: Request) -> bytes:
    """Read the request's body.

    Raises:
        ApiError: 413, it is too large; 408, it did not arrive in time.
        ClientDisconnect: the caller disconnected.
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
        problem = f"The request body did not arrive within {_BODY_SECONDS:.0f} s"
        raise ApiError(408, problem, code="timeout", headers={"connection": "close"}) from None
    return b"".join(parts)


def _too_large() -> ApiError:
    problem = f"The request body is too large: the limit is {MOST_BODY_BYTES} bytes"
    # The rest of the body would be read as the next request.
    return ApiError(413, problem, code="request_too_large", headers={"connection": "close"})


async def cancel_on_disconnect(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Await ``work``; cancel it when the caller disconnects.

    Raises:
        ClientDisconnect: the caller disconnected.
    """
    task, disconnect = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for pending in (task, disconnect):
            pending.cancel()
        # Wait until both have ended, so that nothing keeps running after the request.
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """Server-sent events: ``first``, then those of ``events``, which is always closed.

    An ``ApiError`` becomes the last event and closes the connection. A caller that reads nothing for ``stall_seconds``
    is disconnected; until then ``events`` is not read further.
    """

    media_type = "text/event-stream"

    def __init__(
        self, first: bytes, events: AsyncGenerator[bytes, None], context: RequestContext, stall_seconds: float
    ) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first, self._events, self._context, self._stall_seconds = first, events, context, stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with contextlib.suppress(ClientDisconnect):
            await cancel_on_disconnect(receive, self._send_all(send))

    async def _send_all(self, send: Send) -> None:
        loop, context = asyncio.get_running_loop(), self._context
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self._first, "more_body": True})
        async with contextlib.aclosing(self._events) as events:
            try:
                async for event in events:
                    # A timer costs a tenth of wait_for; after the abort, send returns and the disconnect is noticed.
                    stalled = loop.call_later(self._stall_seconds, self._abort)
                    await send({"type": "http.response.body", "body": event, "more_body": True})
                    stalled.cancel()
            except ApiError as error:
                context.fault = error.message
                event = b"data: " + error.json() + b"\n\n"
                await send({"type": "http.response.body", "body": event, "more_body": True})
                context.transport.close()  # after the buffered data, without the terminating chunk
                await asyncio.Event().wait()  # until the disconnect is noticed
        await send({"type": "http.response.body", "body": b""})

    def _abort(self) -> None:
        self._context.fault = f"the caller read nothing for {self._stall_seconds:g} s"
        self._context.transport.abort()
