"""``/v2``: the Open Inference Protocol of Triton's HTTP front, handed through as it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator

import aiohttp
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from yarl import URL

from trireme_gateway.connection import read_body, unless_gone
from trireme_gateway.errors import ApiError
from trireme_gateway.visit import Visit

# APIs that control the server: those who may use them ask the server itself.
_CONTROL = re.compile(
    r"/v2/(repository|systemsharedmemory|cudasharedmemory|trace|logging)\b|/v2/models/.*/trace/setting"
)
# Of one connection (RFC 9110, 7.6.1), or made anew; the gateway's own key is not Triton's business.
_NOT_HANDED_ON = {"connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
                  "transfer-encoding", "upgrade", "host", "content-length", "authorization", "admin-key",
                  "x-request-id", "expect"}  # fmt: skip


async def forward(session: aiohttp.ClientSession, base_url: str, request: Request) -> Response:
    """Triton's answer.

    Raises:
        ApiError: 404, not served here; 413; 502, Triton cannot be reached; 504.
    """
    path = request.scope["path"]
    if not base_url:
        raise ApiError(404, "/v2 is not served: the gateway was started without --triton-http", code="not_found")
    if _CONTROL.match(path) or "/.." in path or "//" in path:
        raise ApiError(404, f"{path[:200]} is not served here: it controls the server", code="not_found")
    body = await read_body(request)
    headers = {name: value for name, value in request.headers.items() if name not in _NOT_HANDED_ON}
    headers["x-request-id"] = Visit.of(request).request_id
    url = f"{base_url}{request.scope['raw_path'].decode()}"
    if request.url.query:
        url += f"?{request.url.query}"
    try:
        answer = await unless_gone(
            request.receive,
            session.request(request.method, URL(url, encoded=True), headers=headers, data=body, allow_redirects=False),
        )
    except asyncio.TimeoutError:
        raise ApiError(504, "Triton did not answer in time", kind="timeout_error", code="timeout") from None
    except aiohttp.ClientError as error:
        raise ApiError(502, f"Triton cannot be reached: {error}", kind="server_error", code="unavailable") from None

    async def rest() -> AsyncIterator[bytes]:
        async with answer:
            async for part in answer.content.iter_any():
                yield part

    told = {name: value for name, value in answer.headers.items() if name.lower() not in _NOT_HANDED_ON}
    return StreamingResponse(rest(), answer.status, told)
