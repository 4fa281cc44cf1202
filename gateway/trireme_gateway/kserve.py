"""``/v2``: the Open Inference Protocol, forwarded to Triton's HTTP endpoint unchanged."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from yarl import URL

from trireme_gateway.connection import cancel_on_disconnect, read_body
from trireme_gateway.errors import ApiError
from trireme_gateway.request_context import RequestContext

# Control APIs of the server are not exposed here.
_CONTROL = re.compile(
    r"/v2/(repository|systemsharedmemory|cudasharedmemory|trace|logging)\b|/v2/models/.*/trace/setting"
)
# Hop-by-hop headers (RFC 9110, 7.6.1), headers that are set again, and the gateway's own key.
_NOT_FORWARDED = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
                  "transfer-encoding", "upgrade", "host", "content-length", "authorization", "admin-key",
                  "x-request-id", "expect"}  # fmt: skip


async def forward(session: aiohttp.ClientSession, base_url: str, request: Request) -> Response:
    """Forward a request and return Triton's response.

    Raises:
        ApiError: 404, not served here; 413; 502, Triton cannot be reached; 504.
    """
    path = request.scope["path"]
    if not base_url:
        raise ApiError(404, "/v2 is not served: the gateway was started without --triton-http", code="not_found")
    if _CONTROL.match(path) or "/.." in path or "//" in path:
        raise ApiError(404, f"{path[:200]} is not served here: it controls the server", code="not_found")
    body = await read_body(request)
    headers = {name: value for name, value in request.headers.items() if name not in _NOT_FORWARDED}
    headers["x-request-id"] = RequestContext.of(request).request_id
    url = f"{base_url}{request.scope['raw_path'].decode()}"
    if request.url.query:
        url += f"?{request.url.query}"
    try:
        response = await cancel_on_disconnect(
            request.receive,
            session.request(request.method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False),
        )
    except asyncio.TimeoutError:
        raise ApiError(504, "Triton did not respond in time", kind="timeout_error", code="timeout") from None
    except aiohttp.ClientError as error:
        raise ApiError(502, f"Triton cannot be reached: {error}", kind="server_error", code="unavailable") from None

    async def rest() -> AsyncIterator[bytes]:
        async with response:
            async for part in response.content.iter_any():
                yield part

    forwarded = {name: value for name, value in response.headers.items() if name.lower() not in _NOT_FORWARDED}
    return StreamingResponse(rest(), response.status, forwarded)
