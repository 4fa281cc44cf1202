"""A ``trireme serve`` of its own over a copy of the repository, and the verbs of the command line run on it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType

from trireme.errors import ServerError
from trireme.files import link_or_copy
from trireme.processes.ports import free_ports
from trireme.serving.run_state import Phase, RunDirectory, ServingState
from trireme.settings import Settings

_START_DEADLINE_SECONDS = 240.0
_VERB_DEADLINE_SECONDS = 600.0
_STOP_DEADLINE_SECONDS = 90.0


class ThrowAwayStack:
    """Whatever is released on it, the repository that it is a copy of stays as it is.

    Example:
        >>> with ThrowAwayStack(settings) as stack:
        ...     stack.verb("publish", "embedding_economy_encoder", "version")
    """

    def __init__(self, settings: Settings) -> None:
        # Beside the runtime, where the weights can most likely be linked instead of copied.
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(prefix="prove-", dir=settings.state_dir))
        self.settings = Settings(settings.project_dir, self.directory / "models", self.directory / "state")
        shutil.copytree(settings.repository_dir, self.settings.repository_dir, copy_function=link_or_copy)
        self.settings.state_dir.mkdir()
        self.settings.runtime_dir.symlink_to(settings.runtime_dir)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> ThrowAwayStack:
        ports = zip(("--grpc-port", "--http-port", "--metrics-port"), free_ports(3), strict=True)
        options = [
            "--gateway-port=0",
            "--prometheus-port=0",
            *(part for name, port in ports for part in (name, str(port))),
        ]
        with (self.directory / "serve.log").open("wb") as log:
            self._process = subprocess.Popen(
                self._command("serve", *options), env=self._environment(), stdout=log, stderr=subprocess.STDOUT
            )
        try:
            self._wait_until_serving()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def state(self) -> ServingState:
        return RunDirectory(self.settings.run_dir).running()

    def verb(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run another verb of the command line, as a person would."""
        return subprocess.run(
            self._command(*arguments), env=self._environment(), capture_output=True, text=True,
            timeout=_VERB_DEADLINE_SECONDS, check=False,
        )  # fmt: skip

    def _wait_until_serving(self) -> None:
        assert self._process is not None
        deadline = time.monotonic() + _START_DEADLINE_SECONDS
        while time.monotonic() < deadline:
            state = RunDirectory(self.settings.run_dir).read()
            if state is not None and state.phase is Phase.SERVING:
                return
            if self._process.poll() is not None:
                break
            time.sleep(0.1)
        told = (self.directory / "serve.log").read_text(errors="replace").strip().splitlines()
        raise ServerError(f"the copy of the repository could not be served: {told[-1] if told else 'no word of it'}")

    def _stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(timeout=_STOP_DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "trireme.cli", *arguments]

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "TRIREME_PROJECT_DIR": str(self.settings.project_dir),
            "TRIREME_REPOSITORY_DIR": str(self.settings.repository_dir),
            "TRIREME_STATE_DIR": str(self.settings.state_dir),
        }
