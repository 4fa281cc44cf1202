"""Transports over gRPC, blocking and asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from trireme_client._protos import Message, grpc, stubs
from trireme_client.endpoint import Endpoint
from trireme_client.transport import Metadata, PendingCall, StatusError, TransportOptions

_COMPRESSION = {None: None, "gzip": grpc.Compression.Gzip, "deflate": grpc.Compression.Deflate}

_CHANNEL_OPTIONS = (
    # The default of 4 MB rejects ordinary tensors; the protocol's own limit is 2 GiB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # Retries are decided in one place, where the caller's deadline and budget are known.
    ("grpc.enable_retries", 0),
    # Reconnect to a restarted server within a second; gRPC's own backoff grows to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # A new transport to a replica must open a new connection, not share the one that was closed.
    ("grpc.use_local_subchannel_pool", 1),
)


def channel_options(endpoint: Endpoint) -> list[tuple[str, Any]]:
    """gRPC options of every channel to a server."""
    # Decided by the host name that the caller gave; gRPC only sees one of its IPs.
    return [*_CHANNEL_OPTIONS, ("grpc.enable_http_proxy", int(bool(endpoint.proxy_variable)))]


def channel(module: Any, endpoint: Endpoint, options: TransportOptions) -> Any:
    """A channel of ``grpc`` or ``grpc.aio``; neither connects before the first call."""
    compression = _COMPRESSION[options.compression]
    settings = channel_options(endpoint)
    if endpoint.hostname:
        settings.append(("grpc.default_authority", f"{endpoint.hostname}:{endpoint.port}"))
    if options.tls is None:
        return module.insecure_channel(endpoint.target, options=settings, compression=compression)
    server_name = options.tls.server_name or endpoint.hostname
    if server_name:
        settings.append(("grpc.ssl_target_name_override", server_name))
    ca, key, certificate = options.tls.read()
    credentials = grpc.ssl_channel_credentials(ca, key, certificate)
    return module.secure_channel(endpoint.target, credentials, options=settings, compression=compression)


def _status_error(error: Any) -> StatusError:
    return StatusError(error.code().name, error.details() or "")


_CLOSED = "the connection was closed"
# Time for the last event of a cancelled call. It needs the call's own event loop: if that is closed, grpc.aio raises
# in the next one, which then never sees the events behind it and may wait forever.
_LAST_EVENTS_SECONDS = 0.1


class BlockingGrpcTransport:
    """A ``Transport`` whose awaits never suspend."""

    def __init__(self, endpoint: Endpoint, options: TransportOptions) -> None:
        self._channel = channel(grpc, endpoint, options)
        self._stub = stubs.GRPCInferenceServiceStub(self._channel)

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Message:
        # Half the CPU time of a future: this thread receives the response, without gRPC's own thread in between.
        try:
            return getattr(self._stub, method)(request, timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            raise _status_error(error) from None
        except ValueError as error:  # grpc's way to report a closed channel
            raise StatusError("CANCELLED", _CLOSED) from error

    def start(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> PendingCall:
        try:
            pending: PendingCall = getattr(self._stub, method).future(request, timeout=timeout_s, metadata=metadata)
        except ValueError as error:
            raise StatusError("CANCELLED", _CLOSED) from error
        return pending

    async def result(self, pending: Any) -> Message:
        try:
            return pending.result()
        except grpc.RpcError as error:
            raise _status_error(error) from None
        except grpc.FutureCancelledError as error:
            raise StatusError("CANCELLED", _CLOSED) from error

    def stream(self, request: Message, timeout_s: float, metadata: Metadata) -> _BlockingStream:
        try:
            return _BlockingStream(self._stub.ModelStreamInfer(iter((request,)), timeout=timeout_s, metadata=metadata))
        except ValueError as error:
            raise StatusError("CANCELLED", _CLOSED) from error

    async def close(self) -> None:
        self._channel.close()


class _BlockingStream:
    def __init__(self, call: Any) -> None:
        self._call = call

    async def next(self) -> Message | None:
        try:
            return next(self._call, None)
        except grpc.RpcError as error:
            raise _status_error(error) from None

    def cancel(self) -> None:
        self._call.cancel()


class AsyncGrpcTransport:
    """A ``Transport`` on the running event loop."""

    def __init__(self, endpoint: Endpoint, options: TransportOptions) -> None:
        self._channel = channel(grpc.aio, endpoint, options)
        self._stub = stubs.GRPCInferenceServiceStub(self._channel)
        self._closed = False
        self._has_cancelled = False

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Message:
        return await self.result(self.start(method, request, timeout_s, metadata))

    def start(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> PendingCall:
        if self._closed:
            raise StatusError("CANCELLED", _CLOSED)
        pending: PendingCall = getattr(self._stub, method)(request, timeout=timeout_s, metadata=metadata)
        return pending

    async def result(self, pending: Any) -> Message:
        try:
            return await pending
        except grpc.RpcError as error:
            raise _status_error(error) from None
        except asyncio.CancelledError:
            # The call ends this way if our caller is cancelled, which must propagate, and if this transport is closed.
            self._note_cancelled()
            if self._closed:
                raise StatusError("CANCELLED", _CLOSED) from None
            raise

    def stream(self, request: Message, timeout_s: float, metadata: Metadata) -> _AsyncStream:
        if self._closed:
            raise StatusError("CANCELLED", _CLOSED)
        call = self._stub.ModelStreamInfer(iter((request,)), timeout=timeout_s, metadata=metadata)
        return _AsyncStream(call, self._note_cancelled)

    async def close(self) -> None:
        self._closed = True
        await self._channel.close()
        if self._has_cancelled:
            await asyncio.sleep(_LAST_EVENTS_SECONDS)

    def _note_cancelled(self) -> None:
        self._has_cancelled = True


class _AsyncStream:
    def __init__(self, call: Any, on_cancel: Callable[[], None]) -> None:
        self._call, self._on_cancel = call, on_cancel
        self._cancelled = False

    async def next(self) -> Message | None:
        try:
            message = await self._call.read()
        except grpc.RpcError as error:
            raise _status_error(error) from None
        except asyncio.CancelledError:
            if self._cancelled:
                raise StatusError("CANCELLED", _CLOSED) from None
            raise
        return None if message is grpc.aio.EOF else message

    def cancel(self) -> None:
        self._cancelled = True
        # False for a call that has ended.
        if self._call.cancel():
            self._on_cancel()
