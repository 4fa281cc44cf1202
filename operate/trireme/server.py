"""One tritonserver process: its flags, its start, its end."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from trireme.errors import ServerError
from trireme.runtime import EmbeddedRuntime
from trireme.settings import Settings
from trireme.shared_memory import new_region_prefix, remove_regions

LOOPBACK = "127.0.0.1"

# APIs that change the server or reach into its memory. Inference, metadata, health and statistics stay open.
_RESTRICTED_APIS = "model-repository,shared-memory,trace,logging"
# A line of severity E or F in ISO8601 format, or what main() says last.
_LOGGED_ERROR = re.compile(r"(?:\S+Z [EF] \d+ \S+\] |error: )\"?(.*?)\"?$")


@dataclass(frozen=True, slots=True)
class ServerFlags:
    """The command line of tritonserver, as far as this project uses it.

    Attributes:
        repository_dir: the model repository.
        load_models: models to load at start (explicit model control); ``("*",)`` loads all there are.
        grpc_port, http_port, metrics_port: 0 chooses a free one.
        admin_key: what callers of the repository, shared memory, trace and logging APIs must send as
            ``triton-grpc-protocol-admin-key`` (gRPC) or ``admin-key`` (HTTP); ``None`` leaves these APIs open.
        exit_on_error: whether a model that does not load ends the server.
        exit_timeout_seconds: how long in-flight requests may take after SIGTERM.
        log_verbose: 0, or a level from 1.
    """

    repository_dir: Path
    load_models: tuple[str, ...] = ("*",)
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    admin_key: str | None = None
    exit_on_error: bool = True
    exit_timeout_seconds: int = 30
    log_verbose: int = 0

    def with_free_ports(self) -> ServerFlags:
        """The same with a free port in place of every 0."""
        free = iter(free_ports(3))
        return replace(
            self,
            grpc_port=self.grpc_port or next(free),
            http_port=self.http_port or next(free),
            metrics_port=self.metrics_port or next(free),
        )

    def arguments(self, backend_dir: Path, cache_dir: Path, region_prefix: str) -> list[str]:
        """The flags as tritonserver takes them."""
        return [
            f"--model-repository={self.repository_dir}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self.load_models),
            f"--exit-on-error={str(self.exit_on_error).lower()}",
            f"--exit-timeout-secs={self.exit_timeout_seconds}",
            # Ready must not turn false while a further model loads.
            "--strict-readiness=false",
            f"--backend-directory={backend_dir}",
            f"--backend-config=python,shm-region-prefix-name={region_prefix}",
            f"--cache-directory={cache_dir}",
            f"--grpc-address={LOOPBACK}",
            f"--grpc-port={self.grpc_port}",
            f"--http-address={LOOPBACK}",
            f"--http-port={self.http_port}",
            f"--metrics-address={LOOPBACK}",
            f"--metrics-port={self.metrics_port}",
            "--metrics-config=summary_latencies=true",
            f"--log-verbose={self.log_verbose}",
            "--log-format=ISO8601",
            *self._restrictions(),
        ]

    def _restrictions(self) -> list[str]:
        if self.admin_key is None:
            return []
        setting = f"{_RESTRICTED_APIS}:admin-key={self.admin_key}"
        return [f"--grpc-restricted-protocol={setting}", f"--http-restricted-api={setting}"]


@dataclass(slots=True)
class TritonServer:
    """A running tritonserver with its stubs.

    Example:
        >>> with TritonServer.start(ServerFlags(repository_dir=Path("model_repository"))) as server:
        ...     client = tritonclient.grpc.InferenceServerClient(server.grpc_address)

    Attributes:
        flags: with the ports it listens on.
        directory: its backend directory and log; removed at stop if ``start`` made it.
    """

    flags: ServerFlags
    directory: Path
    process: subprocess.Popen[bytes]
    region_prefix: str
    _owns_directory: bool = field(default=False, repr=False)

    @classmethod
    def start(
        cls,
        flags: ServerFlags,
        *,
        runtime: EmbeddedRuntime | None = None,
        directory: Path | None = None,
        ready_deadline_seconds: float = 180.0,
    ) -> TritonServer:
        """Start a server and wait until it is ready.

        It ends with SIGTERM when the calling thread dies, so start it from one that lives as long as it shall.

        Args:
            runtime: default: the one of this checkout.
            directory: where its backend directory and ``server.log`` go; default: a temporary one.

        Raises:
            SetupError: the runtime is not there.
            ServerError: the server ended, with the reason from its log, or was not ready in time.
        """
        runtime = runtime or EmbeddedRuntime.find(Settings.from_environment())
        attempts = 1 if flags.grpc_port and flags.http_port and flags.metrics_port else 3
        for attempt in range(attempts):
            server = cls._launch(flags.with_free_ports(), runtime, directory)
            try:
                server.wait_until_ready(ready_deadline_seconds)
            except BaseException as error:
                server.stop(deadline_seconds=5.0)
                # Another process may have taken a port between choosing and listening.
                if isinstance(error, ServerError) and "in use" in str(error) and attempt + 1 < attempts:
                    continue
                raise
            return server
        raise AssertionError("unreachable")

    @classmethod
    def _launch(cls, flags: ServerFlags, runtime: EmbeddedRuntime, directory: Path | None) -> TritonServer:
        folder = directory or Path(tempfile.mkdtemp(prefix="tritonserver-"))
        folder.mkdir(parents=True, exist_ok=True)
        backends = folder / "backends"
        shutil.rmtree(backends, ignore_errors=True)
        runtime.build_backend_directory(backends)
        prefix = new_region_prefix()
        command = [str(runtime.server_path), *flags.arguments(backends, runtime.cache_dir, prefix)]
        # Ends the server with us, also when we are killed; without setpriv the next `trireme serve` cleans up.
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "TERM", "--", *command]
        # Appending, so that the log may be cut while the server writes to it.
        with (folder / "server.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                env=runtime.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A group of its own: Ctrl-C reaches us alone, and the stubs are reached with the server.
                start_new_session=True,
            )
        return cls(flags, folder, process, prefix, directory is None)

    def __enter__(self) -> TritonServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def grpc_address(self) -> str:
        """``host:port``, as tritonclient takes it."""
        return f"{LOOPBACK}:{self.flags.grpc_port}"

    @property
    def http_address(self) -> str:
        return f"{LOOPBACK}:{self.flags.http_port}"

    @property
    def metrics_address(self) -> str:
        return f"{LOOPBACK}:{self.flags.metrics_port}"

    @property
    def log_path(self) -> Path:
        return self.directory / "server.log"

    def is_alive(self) -> bool:
        """Whether the process exists; says nothing of whether it answers."""
        return self.process.poll() is None

    def wait_until_ready(self, deadline_seconds: float) -> None:
        """Wait until the server says that it is ready.

        Raises:
            ServerError: it ended before, or the deadline passed.
        """
        deadline = time.monotonic() + deadline_seconds
        with contextlib.closing(triton_grpc.InferenceServerClient(self.grpc_address)) as client:
            while time.monotonic() < deadline:
                if not self.is_alive():
                    raise ServerError(f"tritonserver ended at its start: {self.failure_reason()}")
                with contextlib.suppress(InferenceServerException):
                    if client.is_server_ready(client_timeout=1.0):
                        return
                time.sleep(0.05)
        raise ServerError(f"tritonserver was not ready within {deadline_seconds:.0f} s: {self.failure_reason()}")

    def failure_reason(self) -> str:
        """The last thing that the log calls an error; the exit code where there is none."""
        lines = self.log_path.read_text(errors="replace").splitlines() if self.log_path.exists() else []
        errors = [found.group(1).strip() for line in lines if (found := _LOGGED_ERROR.match(line))]
        reason = errors[-1] if errors else f"exit code {self.process.returncode}"
        # A temporary directory is removed with the server.
        return reason if self._owns_directory else f"{reason}; its log: {self.log_path}"

    def stop(self, deadline_seconds: float = 40.0) -> None:
        """SIGTERM, so that in-flight requests finish; SIGKILL to all that is left of it after the deadline."""
        if self.is_alive():
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=deadline_seconds)
        # Stubs of a server that did not end by itself; the group is empty otherwise.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(timeout=30.0)
        remove_regions(self.region_prefix)
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)


def free_ports(count: int) -> Sequence[int]:
    """Different TCP ports of the loopback address that nothing listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((LOOPBACK, 0))
        return [one.getsockname()[1] for one in sockets]
