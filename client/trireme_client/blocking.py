"""The blocking client: the methods of the asyncio client, on transports whose awaits never suspend."""

from __future__ import annotations

import functools
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, TypeVar

from trireme_client.client import AsyncTriremeClient
from trireme_client.runtime import BlockingRuntime
from trireme_client.transport import Runtime, run

P = ParamSpec("P")
T = TypeVar("T")


def _blocking(
    method: Callable[Concatenate[AsyncTriremeClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[TriremeClient, P], T]:
    """The blocking version of a coroutine method."""

    @functools.wraps(method)
    def call(self: TriremeClient, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return run(method(self._client, *args, **kwargs))

    return call


def _blocking_iterator(
    method: Callable[Concatenate[AsyncTriremeClient, P], AsyncGenerator[T, None]],
) -> Callable[Concatenate[TriremeClient, P], Iterator[T]]:
    """The blocking version of an asynchronous generator method."""

    @functools.wraps(method)
    def iterate(self: TriremeClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        stream = method(self._client, *args, **kwargs)
        try:
            while True:
                try:
                    item = run(_next(stream))
                except StopAsyncIteration:
                    return
                yield item
        finally:
            run(stream.aclose())

    return iterate


async def _next(stream: AsyncGenerator[T, None]) -> T:
    return await stream.__anext__()


def _blocking_context(
    method: Callable[Concatenate[AsyncTriremeClient, P], AbstractAsyncContextManager[T]],
) -> Callable[Concatenate[TriremeClient, P], AbstractContextManager[T]]:
    """The blocking version of an asynchronous context manager method."""

    @functools.wraps(method)
    @contextmanager
    def manage(self: TriremeClient, /, *args: P.args, **kwargs: P.kwargs) -> Iterator[T]:
        context = method(self._client, *args, **kwargs)
        value = run(context.__aenter__())
        try:
            yield value
        finally:
            run(context.__aexit__(*sys.exc_info()))

    return manage


def _with_arguments_of(
    init: Callable[Concatenate[AsyncTriremeClient, P], None],
) -> Callable[[Callable[..., None]], Callable[Concatenate[TriremeClient, P], None]]:
    """Give a constructor the signature of the asyncio client's."""

    def decorate(own: Callable[..., None]) -> Callable[Concatenate[TriremeClient, P], None]:
        functools.update_wrapper(own, init)
        return own

    return decorate


class _BlockingCore(AsyncTriremeClient):
    def _runtime(self) -> Runtime:
        return BlockingRuntime()


class TriremeClient:
    """Calls models on Triton, blocking. Any number of threads of the creating process may share a client.

    Arguments and methods are those of ``AsyncTriremeClient``, without ``await``.

    Example:
        >>> with TriremeClient("127.0.0.1:8001") as client:
        ...     result = client.embed(["a sentence"], deadline_ms=200)
        ...     result.vectors, result.variant, result.reason
    """

    @_with_arguments_of(AsyncTriremeClient.__init__)
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._client = _BlockingCore(*args, **kwargs)

    infer = _blocking(AsyncTriremeClient.infer)
    stream = _blocking_iterator(AsyncTriremeClient.stream)
    embed = _blocking(AsyncTriremeClient.embed)
    classify = _blocking(AsyncTriremeClient.classify)
    generate = _blocking_iterator(AsyncTriremeClient.generate)
    spec = _blocking(AsyncTriremeClient.spec)
    models = _blocking(AsyncTriremeClient.models)
    is_ready = _blocking(AsyncTriremeClient.is_ready)
    load_model = _blocking(AsyncTriremeClient.load_model)
    unload_model = _blocking(AsyncTriremeClient.unload_model)
    shared_memory = _blocking_context(AsyncTriremeClient.shared_memory)
    close = _blocking(AsyncTriremeClient.close)

    def __enter__(self) -> TriremeClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
