"""``trireme serve`` as a user runs it, with a repository, a state directory and ports of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from trireme.files import link_or_copy
from trireme.inference.text_request import text_tensor
from trireme.processes.ports import free_ports
from trireme.processes.shared_memory import SHM_DIR, remove_regions
from trireme.settings import Settings
from trireme_client import OperatorClient

from tests.deadlines import scaled

MODELS = Path(__file__).parent / "models"
TRIREME = Path(sys.executable).with_name("trireme")
# Hang guards, not measures.
DEADLINE_SECONDS = scaled(90.0)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.1)


class Serve:
    """One ``trireme serve``; also runs the other verbs against it. ``with`` starts it, and stops it with its checks."""

    def __init__(self, directory: Path, models: Path = MODELS, options: Sequence[str] = (), **environment: str) -> None:
        self.repository = directory / "models"
        shutil.copytree(models, self.repository, copy_function=_link_weights)
        self.state_dir = directory / "state"
        self.state_dir.mkdir()
        (self.state_dir / "runtime").symlink_to(Settings.from_environment().runtime_dir)
        self.output_path = directory / "output"
        self.grpc_port, self.http_port, self.metrics_port = free_ports(3)
        self.options, self._environment = options, environment
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Serve:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.stop()
        finally:
            self.kill()

    def start(self) -> None:
        """Start it and wait until it says that it is ready."""
        with self.output_path.open("wb") as output:
            self.process = subprocess.Popen(
                self._command(), env=self.environment(), stdout=output, stderr=subprocess.STDOUT
            )
        wait_until(lambda: "ready:" in self.output() or self._has_ended(), "it was ready")
        assert not self._has_ended(), self.output()

    def run_to_its_end(self) -> subprocess.CompletedProcess[str]:
        """Start it where it is expected to refuse."""
        return self._run(self._command())

    def verb(self, *arguments: str | bytes) -> subprocess.CompletedProcess[str]:
        """Run another verb of the command line."""
        return self._run([str(TRIREME), *arguments])

    def _run(self, command: Sequence[str | bytes]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment(), capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
        )

    def _command(self) -> list[str]:
        ports = {"grpc": self.grpc_port, "http": self.http_port, "metrics": self.metrics_port}
        return [
            str(TRIREME),
            "serve",
            *(part for name, port in ports.items() for part in (f"--{name}-port", str(port))),
            "--gateway-port=0",
            "--prometheus-port=0",
            *self.options,
        ]

    def environment(self) -> dict[str, str]:
        own = {"TRIREME_STATE_DIR": str(self.state_dir), "TRIREME_REPOSITORY_DIR": str(self.repository)}
        return {**os.environ, **own, **self._environment}

    def _has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def output(self) -> str:
        return self.output_path.read_text()

    def state(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads((self.state_dir / "run" / "serving.json").read_text())
        return state

    def admin_key(self) -> str:
        return (self.state_dir / "run" / "admin.key").read_text()

    def replica(self, number: int = 0) -> dict[str, Any]:
        """The state of a replica."""
        replica: dict[str, Any] = self.state()["replicas"][number]
        return replica

    def server(self, number: int = 0) -> psutil.Process:
        """The tritonserver of a replica."""
        return psutil.Process(self.replica(number)["server_pid"])

    def ask(self, text: bytes, deadline_seconds: float = 30.0) -> bytes:
        with OperatorClient(f"127.0.0.1:{self.grpc_port}") as client:
            answer = client.infer("echo", {"TEXT": text_tensor(text)}, deadline_seconds)
        value: bytes = answer.outputs["ANSWER"][0][0]
        return value

    def stop(self) -> None:
        """SIGTERM; it must end well and leave nothing."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=DEADLINE_SECONDS) == 0, self.output()
        assert_nothing_is_left(self)

    def discard(self) -> None:
        """End it at once with its servers, where a request that counts as in flight would hold up an orderly end."""
        assert self.process is not None
        processes = processes_of(self)
        self.kill()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        remove_regions(f"trireme_{self.process.pid}_")

    def kill(self) -> None:
        if self.process and not self._has_ended():
            self.process.kill()
            self.process.wait(timeout=DEADLINE_SECONDS)


def _link_weights(source: str, target: str) -> None:
    """Copy a file, but link a large one: files of a version are never written to."""
    copy = link_or_copy if Path(source).suffix == ".onnx" else shutil.copy2
    copy(source, target)


def processes_of(serve: Serve) -> list[psutil.Process]:
    """Every living process with the repository of ``serve`` on its command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(serve.repository) in argument for argument in process.info["cmdline"] or ())
    ]


def assert_nothing_is_left(serve: Serve) -> None:
    assert serve.process is not None
    assert processes_of(serve) == []
    assert list(SHM_DIR.glob(f"trireme_{serve.process.pid}_*")) == []
