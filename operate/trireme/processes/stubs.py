"""The Python stubs of a server: one process per instance of a Python model.

Triton does not notice that a stub died: the model stays ready and all its requests fail. Triton does not reap the dead
child either, so a zombie among its children reveals it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

# Upper bound of the time that Triton takes to reap a stub that it stopped.
_UNLOAD_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Stub:
    """The process of one model instance."""

    pid: int
    model: str
    version: int


class StubWatch:
    """Detects dead stubs of one server.

    Example:
        >>> watch = StubWatch(server.pid)
        >>> while True:
        ...     for stub in watch.find_dead(): heal(stub.model)
    """

    def __init__(self, server_pid: int) -> None:
        self._server_pid = server_pid
        self._known: dict[int, Stub] = {}
        self._reported: set[int] = set()
        self._stopped: set[int] = set()

    def find_dead(self) -> list[Stub]:
        """Return stubs that died since the last call; call about once a second.

        A stub that is stopped (SIGSTOP) in two consecutive calls is killed and reported by the next call: its requests
        hang, and locks it holds may block the whole server.
        """
        children = _children(self._server_pid)
        for child in children:
            if child.pid not in self._known and (stub := _as_stub(child)):
                self._known[child.pid] = stub
        self._kill_stopped(children)
        dead = [child for child in children if child.pid not in self._reported and _is_zombie(child)]
        if dead:
            # A stub that is being unloaded is briefly a zombie, too.
            time.sleep(_UNLOAD_SECONDS)
            dead = [child for child in dead if _is_zombie(child)]
        self._reported |= {child.pid for child in dead}
        return [self._known[child.pid] for child in dead if child.pid in self._known]

    def _kill_stopped(self, children: Sequence[psutil.Process]) -> None:
        stopped = [child for child in children if _has_status(child, psutil.STATUS_STOPPED)]
        for child in stopped:
            if child.pid in self._stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    child.kill()
        self._stopped = {child.pid for child in stopped}


def stub_processes(server_pid: int) -> list[psutil.Process]:
    """The live stubs of a server."""
    return [child for child in _children(server_pid) if _as_stub(child)]


def _children(pid: int) -> list[psutil.Process]:
    try:
        return list(psutil.Process(pid).children())
    except psutil.NoSuchProcess:
        return []


def _is_zombie(process: psutil.Process) -> bool:
    return _has_status(process, psutil.STATUS_ZOMBIE)


def _has_status(process: psutil.Process, status: str) -> bool:
    try:
        return bool(process.status() == status)
    except psutil.NoSuchProcess:
        return False


def _as_stub(process: psutil.Process) -> Stub | None:
    try:
        arguments = process.cmdline()
    except psutil.Error:
        return None
    # triton_python_backend_stub <repository>/<model>/<version>/<file> <region> ...
    if len(arguments) < 2 or Path(arguments[0]).name != "triton_python_backend_stub":
        return None
    version_dir = Path(arguments[1]).parent
    return Stub(process.pid, version_dir.parent.name, int(version_dir.name)) if version_dir.name.isdecimal() else None
