"""Interfaces of a connection and of a runtime, which let one core serve blocking and asyncio callers.

The core is written with ``async`` and ``await``. Its blocking version never suspends: every awaited step of the
blocking transport and runtime ends before it returns, so ``run`` drives it to the end without an event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from trireme_client._protos import Message
from trireme_client.endpoint import Endpoint, Tls

Metadata = tuple[tuple[str, str], ...]
T = TypeVar("T")
A = TypeVar("A")
B = TypeVar("B")


class StatusError(Exception):
    """A call ended with a gRPC status other than OK."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


@dataclass(frozen=True, slots=True)
class TransportOptions:
    """Options of every connection of a client."""

    tls: Tls | None = None
    compression: str | None = None


class PendingCall(Protocol):
    """A call in flight."""

    def cancel(self) -> object: ...
    def done(self) -> bool: ...
    def add_done_callback(self, callback: Callable[[Any], object], /) -> object: ...


class ResponseStream(Protocol):
    """The responses to one request of a decoupled model."""

    async def next(self) -> Message | None:
        """The next ``ModelStreamInferResponse``; None at the end."""

    def cancel(self) -> None:
        """Cancel the request, also from another thread; a waiting ``next`` raises."""


class Transport(Protocol):
    """One connection to one server. Methods have the names of Triton's gRPC service and use its messages."""

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Message:
        """Make a call and wait for its response.

        Raises:
            StatusError: the call failed; status CANCELLED if the transport was closed meanwhile.
        """

    def start(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> PendingCall:
        """Start a call that can be cancelled; ``result`` waits for its response."""

    async def result(self, pending: PendingCall) -> Message:
        """As ``call``."""

    def stream(self, request: Message, timeout_s: float, metadata: Metadata) -> ResponseStream:
        """Send a request of ``ModelStreamInfer``; read its responses with ``next_response``."""

    async def close(self) -> None:
        """Cancel all pending calls."""


class Runtime(Protocol):
    """What the core needs from a blocking or asyncio environment."""

    def connect(self, endpoint: Endpoint, options: TransportOptions) -> Transport: ...
    async def sleep(self, seconds: float) -> None: ...

    async def wait_for_any(self, pending: Sequence[PendingCall], timeout_s: float) -> None:
        """Wait until one of them has ended or the time is over."""

    async def map(self, step: Callable[[A], Coroutine[Any, Any, B]], items: Sequence[A]) -> list[B]:
        """``step`` of each item, from asyncio a few at once, results in order; the first error ends all of them."""

    def call_later(self, delay_s: float, act: Callable[[], None]) -> Timer: ...

    def run_periodically(self, step: Callable[[], Coroutine[Any, Any, None]], interval_s: float) -> PeriodicTask:
        """Run ``step`` in the background, ``interval_s`` after its last end."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """The IP addresses of a host name; empty if the lookup fails."""


class Timer(Protocol):
    """A scheduled action."""

    def cancel(self) -> None: ...


class PeriodicTask(Protocol):
    """A step that runs at intervals."""

    async def stop(self) -> None: ...


async def next_response(stream: ResponseStream) -> Message | None:
    """The stream's next non-empty ``ModelInferResponse``; None at its end.

    Raises:
        StatusError: the stream failed. A failure within a stream is a message without a status; requesting statuses
            (``triton_grpc_error``) makes tritonserver 2.51 abort if such a stream is cancelled.
    """
    while (message := await stream.next()) is not None:
        if message.error_message:
            raise StatusError("UNKNOWN", message.error_message)
        response = message.infer_response
        if response.outputs or not response.parameters["triton_final_response"].bool_param:
            return response
    return None


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never suspends to its end."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking call suspended")
