"""Child processes, which end with this process; a supervised one is restarted when it exits."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_LOG = logging.getLogger(__name__)


def ending_with_parent(command: Sequence[str]) -> list[str]:
    """Return ``command``, wrapped so that it gets SIGTERM when the thread that starts it dies, even by SIGKILL.

    If ``setpriv`` is not installed, the command is unchanged and the next ``trireme serve`` cleans up.
    """
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--", *command] if setpriv else list(command)


@dataclass(slots=True)
class ChildProcess:
    """A process with its log.

    Example:
        >>> child = ChildProcess.start(["envoy", "--version"], Path("run/envoy.log"))
        >>> child.stop(deadline_seconds=5.0)
    """

    process: subprocess.Popen[bytes]
    log_path: Path

    @classmethod
    def start(
        cls, command: Sequence[str], log_path: Path, environment: Mapping[str, str] | None = None
    ) -> ChildProcess:
        """Start a process; its output is appended to ``log_path``."""
        log_path.parent.mkdir(parents=True, exist_ok=True)
        with log_path.open("ab") as log:
            process = subprocess.Popen(
                ending_with_parent(command),
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A separate process group: Ctrl-C reaches only the parent.
                start_new_session=True,
            )
        return cls(process, log_path)

    @property
    def pid(self) -> int:
        return self.process.pid

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def last_log_line(self) -> str:
        """The last line of the log, and the path of the log."""
        lines = self.log_path.read_text(errors="replace").splitlines()
        return f"{lines[-1] if lines else 'no output'}; log: {self.log_path}"

    def stop(self, deadline_seconds: float) -> None:
        """SIGTERM; SIGKILL after the deadline."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(timeout=10.0)


class SupervisedProcess:
    """A child process that is restarted, after a pause, whenever it exits. Nothing waits until it is ready.

    Example:
        >>> gateway = SupervisedProcess("gateway", ["trireme", "gateway"], Path("run/gateway.log"))
        >>> gateway.ensure_running()  # in a loop
        >>> gateway.stop(deadline_seconds=10.0)
    """

    def __init__(self, name: str, command: Sequence[str], log_path: Path, restart_seconds: float = 2.0) -> None:
        """Nothing is started yet."""
        self._name = name
        self._command = command
        self._log_path = log_path
        self._restart_seconds = restart_seconds
        self._child: ChildProcess | None = None
        self._next_start = 0.0

    def ensure_running(self) -> None:
        """Start the process unless it is running."""
        if self._child and not self._child.is_alive():
            _LOG.warning("%s exited: %s", self._name, self._child.last_log_line())
            self._child = None
        if self._child is None and time.monotonic() >= self._next_start:
            self._next_start = time.monotonic() + self._restart_seconds
            self._child = ChildProcess.start(self._command, self._log_path)

    def stop(self, deadline_seconds: float) -> None:
        if self._child:
            self._child.stop(deadline_seconds)
            self._child = None
