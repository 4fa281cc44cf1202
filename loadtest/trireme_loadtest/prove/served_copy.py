"""``trireme serve`` with a copy of a repository, and other commands run against it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from trireme.errors import ServerError
from trireme.files import link_or_copy
from trireme.processes.ports import LOOPBACK, free_ports
from trireme.settings import Settings

_LINKED_BYTES = 1024**2
_Self = TypeVar("_Self", bound="ServedCopy")


class ServedCopy:
    """A copy of ``repository`` in ``directory``, served on free ports with its own state directory.

    Releases on the copy do not change the original repository.

    Attributes:
        options: of ``trireme serve``, in addition to its ports.
        deadline_seconds: limit for a command, in case it hangs.

    Example:
        >>> with ServedCopy(directory, settings.repository_dir) as served:
        ...     served.verb("publish", "embedding_economy_encoder", "version")
    """

    deadline_seconds = 600.0

    def __init__(self, directory: Path, repository: Path, options: Sequence[str] = (), **environment: str) -> None:
        project = Settings.from_environment()
        self.settings = Settings(project.project_dir, directory / "models", directory / "state")
        shutil.copytree(repository, self.settings.repository_dir, copy_function=_link_large)
        self.settings.state_dir.mkdir()
        self.settings.runtime_dir.symlink_to(project.runtime_dir)
        self.output_path = directory / "output"
        self.grpc_port, self.http_port, self.metrics_port = free_ports(3)
        self.options, self._environment = options, environment
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self: _Self) -> _Self:
        try:
            self.start()
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def grpc_address(self) -> str:
        return f"{LOOPBACK}:{self.grpc_port}"

    def start(self) -> None:
        """Start the server and wait until it is ready.

        Raises:
            ServerError: it ended, or was not ready in time.
        """
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                self._command(), env=self.environment(), stdout=output, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + self.deadline_seconds
        while "ready:" not in self.output():
            if self.has_ended() or time.monotonic() > deadline:
                lines = self.output().strip().splitlines() or ["no output"]
                raise ServerError(f"the copy of the repository could not be served: {lines[-1]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End the server with SIGTERM, and with SIGKILL if that takes too long."""
        if self.process is not None and not self.has_ended():
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=self.deadline_seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self.process is not None and not self.has_ended():
            self.process.kill()
            self.process.wait(timeout=self.deadline_seconds)

    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def verb(self, *arguments: str | bytes) -> subprocess.CompletedProcess[str]:
        """Run another command of ``trireme`` against the server."""
        return self._run([sys.executable, "-m", "trireme.cli", *arguments])

    def output(self) -> str:
        return self.output_path.read_text(errors="replace")

    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TRIREME_PROJECT_DIR": str(self.settings.project_dir),
            "TRIREME_REPOSITORY_DIR": str(self.settings.repository_dir),
            "TRIREME_STATE_DIR": str(self.settings.state_dir),
            **self._environment,
        }

    def _run(self, command: Sequence[str | bytes]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=self.deadline_seconds, check=False
        )

    def _command(self) -> list[str]:
        ports = {"grpc": self.grpc_port, "http": self.http_port, "metrics": self.metrics_port}
        return [
            *(sys.executable, "-m", "trireme.cli", "serve", "--gateway-port=0", "--prometheus-port=0"),
            *(f"--{name}-port={port}" for name, port in ports.items()),
            *self.options,
        ]


def _link_large(source: str, target: str) -> None:
    """Copy a file, but link a large one: the files of a version are never written in place."""
    copy = link_or_copy if Path(source).stat().st_size > _LINKED_BYTES else shutil.copy2
    copy(source, target)
