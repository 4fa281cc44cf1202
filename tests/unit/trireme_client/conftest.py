"""A fake server, and clients of both kinds behind one interface, so that each test covers both."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from trireme_client import AsyncTriremeClient, FakeServer, TriremeClient


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server with ``double`` (a batch of up to 8 rows), ``count`` (decoupled) and ``echo`` (texts, no batch)."""
    with FakeServer() as server:
        add_models(server)
        yield server


def add_models(server: FakeServer) -> None:
    server.add_model(
        "double",
        inputs={"X": ("FP32", [2])},
        outputs={"Y": ("FP32", [2])},
        max_batch_size=8,
        compute=lambda inputs: {"Y": inputs["X"] * 2},
    )
    server.add_model(
        "count",
        inputs={"N": ("INT32", [1])},
        outputs={"I": ("INT32", [1])},
        stream=lambda inputs: ({"I": np.array([i])} for i in range(int(inputs["N"][0]))),
    )
    server.add_model(
        "echo",
        inputs={"TEXT": ("BYTES", [-1]), "HINT": ("BYTES", [1])},
        outputs={"TEXT": ("BYTES", [-1])},
        optional_inputs=["HINT"],
        compute=lambda inputs: {"TEXT": inputs["TEXT"]},
    )


@contextlib.contextmanager
def act_when(condition: Callable[[], bool], act: Callable[[], object]) -> Iterator[None]:
    """While the block runs, act as soon as the condition is true."""
    ended = threading.Event()

    def watch() -> None:
        while not condition():
            if ended.wait(0.005):
                return
        act()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


@contextlib.contextmanager
def silent_port() -> Iterator[str]:
    """A port that accepts connections and never sends a byte."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


class BlockingAdapter:
    """An asyncio client called from a synchronous test; a stream is a list."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncTriremeClient(*args, **kwargs)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self.client, name)(*args, **kwargs)
            if inspect.isasyncgen(result):
                return self.loop.run_until_complete(_listed(result))
            return self.loop.run_until_complete(result)

        return call

    def close_loop(self) -> None:
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.run_until_complete(self.loop.shutdown_default_executor())
        self.loop.close()


async def _listed(stream: Any) -> list[Any]:
    return [item async for item in stream]


@pytest.fixture(params=["blocking", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Creates clients, of each kind in turn, and closes them."""
    made: list[Any] = []

    def make(*args: Any, **kwargs: Any) -> Any:
        made.append((TriremeClient if request.param == "blocking" else BlockingAdapter)(*args, **kwargs))
        return made[-1]

    yield make
    for client in made:
        client.close()
        if isinstance(client, BlockingAdapter):
            client.close_loop()
