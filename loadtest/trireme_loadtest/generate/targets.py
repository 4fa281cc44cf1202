"""Targets of a load generator, one per protocol; requests are serialised beforehand, responses not decoded.

A generator often shares the machine with the server it measures, so it must be cheap: a request costs about 0.20 CPU-ms
with ``GrpcTarget``, 0.09 with ``HttpTarget``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, TypeVar

import aiohttp
import grpc
import grpc.aio
from trireme_client import Endpoint
from trireme_client.grpc_transport import channel
from trireme_client.transport import TransportOptions
from tritonclient.grpc import service_pb2

from trireme_loadtest.errors import RequestFailed

CONNECT_DEADLINE_SECONDS = 10.0
_SERVICE = "/inference.GRPCInferenceService"
_Channel = TypeVar("_Channel", bound="_GrpcChannel")


class Target(Protocol):
    """A destination for serialised requests, used as an asynchronous context manager."""

    async def send(self, body: bytes) -> bytes:
        """Send one request and return its response, undecoded.

        Raises:
            RequestFailed: it was rejected, failed, or had no response within the deadline.
        """

    async def __aenter__(self) -> Target: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class _GrpcChannel:
    """A separate connection, as an asynchronous context manager."""

    def __init__(self, address: str, deadline_seconds: float) -> None:
        self._address, self._deadline_seconds = address, deadline_seconds

    async def __aenter__(self: _Channel) -> _Channel:
        self._channel = channel(grpc.aio, Endpoint(self._address, direct=True), TransportOptions())
        self._infer = self._channel.unary_unary(f"{_SERVICE}/ModelInfer")
        self._stream_infer = self._channel.stream_stream(f"{_SERVICE}/ModelStreamInfer")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._channel.close()


class GrpcTarget(_GrpcChannel):
    """KServe over gRPC. A body is a serialised ``ModelInferRequest``."""

    async def send(self, body: bytes) -> bytes:
        try:
            response: bytes = await self._infer(body, timeout=self._deadline_seconds)
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from None
        return response


class GrpcStreamTarget(_GrpcChannel):
    """A decoupled model over gRPC, one stream per request: it may send any number of responses."""

    async def stream(self, body: bytes) -> AsyncIterator[bytes]:
        """Yield the responses, undecoded ``ModelStreamInferResponse``.

        Raises:
            RequestFailed: the stream broke, a response is an error, or it did not end within the deadline.
        """

        async def requests() -> AsyncIterator[bytes]:
            yield body

        try:
            async for response in self._stream_infer(requests(), timeout=self._deadline_seconds):
                problem = service_pb2.ModelStreamInferResponse.FromString(response).error_message
                if problem:
                    raise RequestFailed("STREAM_ERROR", problem)
                yield response
        except grpc.aio.AioRpcError as error:
            raise _failure(error) from None


def _failure(error: grpc.aio.AioRpcError) -> RequestFailed:
    code = error.code()
    timed_out = code is grpc.StatusCode.DEADLINE_EXCEEDED
    return RequestFailed(code.name, error.details() or "", timed_out=timed_out)


class HttpTarget:
    """JSON by HTTP POST over keep-alive connections, for any protocol. A body is the document."""

    def __init__(self, url: str, deadline_seconds: float) -> None:
        self._url, self._deadline_seconds = url, deadline_seconds

    async def send(self, body: bytes) -> bytes:
        try:
            async with self._session.post(
                self._url, data=body, headers={"Content-Type": "application/json"}
            ) as response:
                content = await response.read()
        except asyncio.TimeoutError:
            raise RequestFailed(
                "DEADLINE_EXCEEDED", f"no response in {self._deadline_seconds} s", timed_out=True
            ) from None
        except aiohttp.ClientError as error:
            raise RequestFailed(type(error).__name__, str(error)) from None
        if response.status != 200:
            raise RequestFailed(f"HTTP {response.status}", content[:200].decode(errors="replace"))
        return content

    async def __aenter__(self) -> HttpTarget:
        self._session = aiohttp.ClientSession(
            # No limit of connections: a limit would queue requests in the generator.
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._deadline_seconds, connect=CONNECT_DEADLINE_SECONDS),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()


@dataclass(frozen=True, slots=True)
class RequestSet:
    """The serialised requests of one task.

    Attributes:
        name: of the task; in a load test, its model.
        protocol: ``grpc``, ``grpc_stream`` (a decoupled model) or ``http``.
        address: ``host:port``; for ``http``, the URL.
        bodies: serialised requests to choose from.
    """

    name: str
    protocol: str
    address: str
    bodies: Sequence[bytes]


@asynccontextmanager
async def connected(
    requests: Sequence[RequestSet], deadline_seconds: float
) -> AsyncIterator[list[Target | GrpcStreamTarget]]:
    """A target for each request set, each with its own connection."""
    kinds: Mapping[str, Callable[[str, float], Any]]
    kinds = {"grpc": GrpcTarget, "grpc_stream": GrpcStreamTarget, "http": HttpTarget}
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(kinds[one.protocol](one.address, deadline_seconds)) for one in requests]
