"""A tritonserver for a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.server import ServerFlags, TritonServer


@contextlib.contextmanager
def throw_away_server(flags: ServerFlags, runtime: EmbeddedRuntime | None = None) -> Iterator[TritonServer]:
    """Start a server, and kill it at the end.

    Ended in order it would take a second for each of its stubs, and half a minute where one of them was killed.
    """
    server = TritonServer.start(flags, runtime=runtime)
    try:
        yield server
    finally:
        server.kill()
