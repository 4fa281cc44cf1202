"""Checks of the ports that the server listens on."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import psutil

from trireme.doctor.check import Check, fail, ok
from trireme.serving.run_state import RunDirectory

# Default ports of `trireme serve` and the flags that change them.
DEFAULT_PORTS = {8000: "--http-port", 8001: "--grpc-port", 8002: "--metrics-port"}


def ports(directory: RunDirectory) -> Iterator[Check]:
    """The ports of ``trireme serve`` are free or used by the server of this checkout."""
    state = directory.read() if directory.is_held() else None
    own = _family(state.pid) if state else set()
    for port, flag in DEFAULT_PORTS.items():
        yield from one_port(port, flag, own)


def one_port(port: int, flag: str, own: Collection[int] = ()) -> Iterator[Check]:
    """``port`` is free or used by one of the processes ``own``; ``flag`` selects another port."""
    holders = [
        connection.pid
        for connection in psutil.net_connections(kind="tcp")
        if connection.laddr and connection.laddr.port == port and connection.status == psutil.CONN_LISTEN
    ]
    subject = f"port {port}"
    if not holders:
        yield ok(subject, "free")
    elif holders[0] in own:
        yield ok(subject, f"in use by trireme serve of this checkout, pid {holders[0]}")
    elif holders[0] is None:
        yield fail(subject, "in use by a process of another user", f"choose another with {flag}")
    else:
        yield fail(subject, f"in use by {_process(holders[0])}", f"kill {holders[0]}, or choose another with {flag}")


def _family(pid: int) -> set[int]:
    with contextlib.suppress(psutil.Error):
        return {pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))}
    return {pid}


def _process(pid: int) -> str:
    with contextlib.suppress(psutil.Error):
        return f"pid {pid} ({psutil.Process(pid).name()})"
    return f"pid {pid}"
