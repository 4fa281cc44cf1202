"""``trireme serve`` as a user runs it, with a separate repository, state directory and ports."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from trireme.errors import ServerError
from trireme.inference.text_request import text_tensor
from trireme.processes.shared_memory import SHM_DIR, remove_regions
from trireme_client import OperatorClient
from trireme_loadtest.prove.served_copy import ServedCopy

from tests.deadlines import scaled

MODELS = Path(__file__).parent / "models"
TRIREME = Path(sys.executable).with_name("trireme")
# Guards against hanging tests, not measured limits.
DEADLINE_SECONDS = scaled(90.0)


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.1)


class Serve(ServedCopy):
    """Stops with checks if the block succeeds, and immediately if it raises."""

    deadline_seconds = DEADLINE_SECONDS

    def __init__(self, directory: Path, models: Path = MODELS, options: Sequence[str] = (), **environment: str) -> None:
        super().__init__(directory, models, options, **environment)
        self.repository, self.state_dir = self.settings.repository_dir, self.settings.state_dir

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.stop()
        finally:
            self.kill()

    def start(self) -> None:
        try:
            super().start()
        except ServerError:
            print(self.output())
            raise

    def run_to_its_end(self) -> subprocess.CompletedProcess[str]:
        """Run it and wait for its exit, which is expected."""
        return self._run(self._command())

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
        """SIGTERM; it must exit with 0 and leave nothing behind."""
        super().stop()
        assert self.process is not None
        assert self.process.returncode == 0, self.output()
        assert_nothing_is_left(self)

    def discard(self) -> None:
        """Kill it and its servers, if a request in flight would delay a graceful stop."""
        assert self.process is not None
        processes = processes_of(self)
        self.kill()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        remove_regions(f"trireme_{self.process.pid}_")


def processes_of(serve: Serve) -> list[psutil.Process]:
    """All live processes with the repository of ``serve`` on their command line."""
    return [
        process
        for process in psutil.process_iter(["cmdline"])
        if any(str(serve.repository) in argument for argument in process.info["cmdline"] or ())
    ]


def assert_nothing_is_left(serve: Serve) -> None:
    assert serve.process is not None
    assert processes_of(serve) == []
    assert list(SHM_DIR.glob(f"trireme_{serve.process.pid}_*")) == []
