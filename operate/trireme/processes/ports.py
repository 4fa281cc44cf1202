"""TCP ports on loopback: free ports, processes that use ports, HTTP requests without proxies."""

from __future__ import annotations

import contextlib
import socket
import urllib.request
from collections.abc import Sequence
from http.client import HTTPResponse

import psutil

from trireme.errors import ServerError

LOOPBACK = "127.0.0.1"

_NO_PROXIES = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def free_ports(count: int) -> Sequence[int]:
    """Return ``count`` distinct ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]


def require_free(port: int, flag: str) -> None:
    """Check that a server can listen on ``port``.

    Raises:
        ServerError: the port is in use; names the process and ``flag``.
    """
    with socket.socket() as probe:
        # Like the server: lingering connections of an earlier server do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            holder = _holder(port) or f"a process of another user ({error.strerror})"
            raise ServerError(
                f"port {port} is in use by {holder}; stop it, or choose another port with {flag}"
            ) from None


def is_free(port: int) -> bool:
    """Whether a server can listen on ``port``."""
    try:
        require_free(port, "")
    except ServerError:
        return False
    return True


def is_listening(port: int) -> bool:
    """Whether something accepts connections on ``port``; does not bind it."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def open_direct(request: str | urllib.request.Request, timeout_seconds: float) -> HTTPResponse:
    """``urllib.request.urlopen`` that ignores the proxy variables of the environment, for local servers."""
    response: HTTPResponse = _NO_PROXIES.open(request, timeout=timeout_seconds)
    return response


def _holder(port: int) -> str | None:
    for connection in psutil.net_connections("tcp"):
        listens = connection.status == psutil.CONN_LISTEN and getattr(connection.laddr, "port", None) == port
        if listens and connection.pid:
            with contextlib.suppress(psutil.Error):
                return f"pid {connection.pid} ({psutil.Process(connection.pid).name()})"
    return None
