"""What the core asks of a connection and of the world, so that one core serves blocking and asyncio callers.

The core is written with ``async`` and ``await``. Its blocking form never suspends: every awaited step of the blocking
wire and runtime ends before it returns, so ``run`` drives it in one go, without an event loop.
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


class WireError(Exception):
    """A call ended with a gRPC status other than OK."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status, self.message = status, message


@dataclass(frozen=True, slots=True)
class WireOptions:
    """How every connection of a client is made."""

    tls: Tls | None = None
    compression: str | None = None


class Pending(Protocol):
    """A call in flight."""

    def cancel(self) -> object: ...
    def done(self) -> bool: ...
    def add_done_callback(self, callback: Callable[[Any], object], /) -> object: ...


class WireStream(Protocol):
    """The answers to one request of a decoupled model."""

    async def next(self) -> Message | None:
        """The next ``ModelStreamInferResponse``; None at the end."""

    def cancel(self) -> None:
        """Give the stream up, also from another thread; a waiting ``next`` raises."""


class Wire(Protocol):
    """One connection to one server. Methods are named as in Triton's gRPC service; messages are its messages."""

    async def call(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Message:
        """Make a call and wait for its answer.

        Raises:
            WireError: it failed; status CANCELLED when the wire was closed meanwhile.
        """

    def start(self, method: str, request: Message, timeout_s: float, metadata: Metadata) -> Pending:
        """Make a call that can be cancelled; ``result`` waits for its answer."""

    async def result(self, pending: Pending) -> Message:
        """As ``call``."""

    def stream(self, request: Message, timeout_s: float, metadata: Metadata) -> WireStream: ...

    async def close(self) -> None:
        """Cancel all that is in flight."""


class Runtime(Protocol):
    """The world of a blocking or an asyncio caller."""

    def connect(self, endpoint: Endpoint, options: WireOptions) -> Wire: ...
    async def sleep(self, seconds: float) -> None: ...

    async def first_done(self, pending: Sequence[Pending], timeout_s: float) -> None:
        """Wait until one of them has ended, or the time is over."""

    async def each(self, step: Callable[[A], Coroutine[Any, Any, B]], items: Sequence[A]) -> list[B]:
        """``step`` of each item, a few at once where the caller's world can, results in order; the first error ends
        all of them."""

    def after(self, delay_s: float, act: Callable[[], None]) -> Timer:
        """Call ``act`` once after a while."""

    def repeat(self, step: Callable[[], Coroutine[Any, Any, None]], interval_s: float) -> Repeating:
        """Run ``step`` now and again, in the background."""

    async def resolve(self, host: str, port: int) -> list[str]:
        """The IP addresses of a host name; empty when the look-up fails."""


class Timer(Protocol):
    """An act to come."""

    def cancel(self) -> None: ...


class Repeating(Protocol):
    """A step that is run again and again."""

    async def stop(self) -> None: ...


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Drive a coroutine that never suspends to its end."""
    try:
        coroutine.send(None)
    except StopIteration as ended:
        result: T = ended.value
        return result
    coroutine.close()
    raise RuntimeError("a blocking call suspended")
