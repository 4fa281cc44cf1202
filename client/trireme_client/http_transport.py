"""HTTP transports with aiohttp (extra ``http``), for networks where gRPC cannot pass."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gzip
import io
import ssl
import threading
import zlib
from collections.abc import Callable
from typing import Any

from trireme_client._protos import Message
from trireme_client.endpoint import Endpoint, Tls
from trireme_client.http_codec import HttpRequest, decode_error, decode_response, encode_request
from trireme_client.transport import Metadata, PendingCall, ResponseStream, StatusError, TransportOptions

try:
    import aiohttp
except ModuleNotFoundError as missing:
    raise ModuleNotFoundError("http:// addresses need aiohttp: pip install 'trireme-client[http]'") from missing

_CLOSED = "the connection was closed"
_COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}
_STATUSES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
    409: "ALREADY_EXISTS", 413: "INVALID_ARGUMENT", 415: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED", 500: "INTERNAL", 501: "UNIMPLEMENTED", 502: "UNAVAILABLE", 503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}  # fmt: skip


class AsyncHttpTransport:
    """A ``Transport`` on the running event loop."""

    def __init__(self, endpoint: Endpoint, options: TransportOptions) -> None:
        self._base = f"{endpoint.scheme}://{endpoint.target}/v2/"
        self._compression = options.compression
        self._server_name = options.tls.server_name if options.tls else None
        self._ssl = _ssl_context(options.tls) if endpoint.scheme == "https" else None
        self._session: aiohttp.ClientSession | None = None
        self._running: set[asyncio.Task[Message]] = set()
        self._closed = False

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Message:
        return await self.result(self.start(method, request, timeout_s, metadata))

    def start(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> PendingCall:
        if self._closed:
            raise StatusError("CANCELLED", _CLOSED)
        # Encoded now: the caller may change the message later.
        task = asyncio.get_running_loop().create_task(
            self._exchange(encode_request(method, request), timeout_s, metadata)
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return task

    async def result(self, pending: Any) -> Message:
        try:
            return await pending
        except asyncio.CancelledError:
            if self._closed:
                raise StatusError("CANCELLED", _CLOSED) from None
            pending.cancel()
            raise

    def stream(self, request: Message, timeout_s: float, metadata: Metadata) -> ResponseStream:  # noqa: ARG002
        raise StatusError("INVALID_ARGUMENT", "decoupled models respond over gRPC only; use a gRPC address")

    async def close(self) -> None:
        self._closed = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _exchange(self, http: HttpRequest, timeout_s: float, metadata: Metadata) -> Message:
        if self._session is None:
            # No limit here: the caller decides how many requests are in flight.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), skip_auto_headers=("Accept-Encoding",), auto_decompress=True
            )
        headers = {**dict(metadata), **http.headers}
        body = http.body
        if self._compression and body:
            body = _COMPRESS[self._compression](body)
            headers |= {"Content-Encoding": self._compression, "Accept-Encoding": self._compression}
        try:
            async with self._session.request(
                http.method,
                (self._base + http.path).rstrip("/"),
                data=io.BytesIO(body) if body else None,
                headers=headers,
                ssl=True if self._ssl is None else self._ssl,
                server_hostname=self._server_name,
                timeout=aiohttp.ClientTimeout(total=timeout_s, ceil_threshold=float("inf")),
            ) as response:
                content = await response.read()
                if response.status != 200:
                    status = _STATUSES.get(response.status, "UNKNOWN")
                    raise StatusError(status, decode_error(content))
                return decode_response(http.rpc, content, response.headers)
        except (ValueError, KeyError) as error:
            raise StatusError("INTERNAL", f"the response cannot be read: {error}") from error
        except asyncio.TimeoutError:
            raise StatusError("DEADLINE_EXCEEDED", "Deadline Exceeded") from None
        except (aiohttp.ClientError, OSError) as error:
            raise StatusError("UNAVAILABLE", str(error) or type(error).__name__) from None


class BlockingHttpTransport:
    """A blocking ``Transport``: an event loop in a thread makes the calls."""

    def __init__(self, endpoint: Endpoint, options: TransportOptions) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="trireme-client-http", daemon=True)
        self._thread.start()
        self._transport = AsyncHttpTransport(endpoint, options)
        self._closed = False

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Message:
        return await self.result(self.start(method, request, timeout_s, metadata))

    def start(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> PendingCall:
        if self._closed:
            raise StatusError("CANCELLED", _CLOSED)
        call = self._transport.call(method, request, timeout_s, metadata)
        return asyncio.run_coroutine_threadsafe(call, self._loop)

    async def result(self, pending: Any) -> Message:
        try:
            return pending.result()
        except concurrent.futures.CancelledError:
            raise StatusError("CANCELLED", _CLOSED) from None

    def stream(self, request: Message, timeout_s: float, metadata: Metadata) -> ResponseStream:
        return self._transport.stream(request, timeout_s, metadata)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        asyncio.run_coroutine_threadsafe(self._transport.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _ssl_context(tls: Tls | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(tls.ca) if tls and tls.ca else None)
    if tls and tls.certificate and tls.key:
        context.load_cert_chain(str(tls.certificate), str(tls.key))
    return context
