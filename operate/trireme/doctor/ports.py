"""The ports that the server listens on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import psutil

from trireme.doctor.check import Check, fail, ok


def ports(wanted: Mapping[str, int]) -> Iterator[Check]:
    """Nothing else listens on the ports of ``wanted`` (service to port)."""
    listening = {
        connection.laddr.port: connection.pid
        for connection in psutil.net_connections(kind="tcp")
        if connection.laddr and connection.status == psutil.CONN_LISTEN
    }
    for service, port in wanted.items():
        subject = f"port {port}"
        if port not in listening:
            yield ok(subject, f"free for {service}")
            continue
        pid = listening[port]
        yield fail(
            subject,
            f"wanted for {service}, in use by {_process(pid)}",
            f"kill {pid}, or choose another port" if pid else "choose another port",
        )


def _process(pid: int | None) -> str:
    if pid is None:
        return "a process of another user"
    with contextlib.suppress(psutil.Error):
        return f"pid {pid} ({' '.join(psutil.Process(pid).cmdline()[:3]) or psutil.Process(pid).name()})"
    return f"pid {pid}"
