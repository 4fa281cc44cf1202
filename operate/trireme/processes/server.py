"""One tritonserver process: flags, start, stop."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

from trireme_client import OperatorClient
from trireme_client.operator import in_one_line

from trireme.errors import ServerError
from trireme.processes.admin_key import hide_argument
from trireme.processes.ports import LOOPBACK, free_ports
from trireme.processes.progress import Progress
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.shared_memory import new_region_prefix, remove_regions
from trireme.processes.supervised import ending_with_parent
from trireme.settings import Settings

_LOG = logging.getLogger(__name__)

# APIs that change the server or access its memory. Inference, metadata, health and statistics stay open.
_RESTRICTED_APIS = "model-repository,shared-memory,trace,logging"
# A line of severity E or F in ISO8601 format, or the last message of main().
_LOGGED_ERROR = re.compile(r"(?:\S+Z [EF] \d+ \S+\] |error: )\"?(.*?)\"?$")
# Logged as errors by every server without a GPU, and the summary of other errors.
_NO_CAUSE = re.compile(r"CudaDriverHelper|unable to create stream|.*failed to load all models$")
_LOAD_BEGUN = re.compile(r"\S+Z I \d+ \S+\] \"loading: (.+):\d+\"$")
_LOAD_ENDED = re.compile(r"\S+Z [IE] \d+ \S+\] \"(?:successfully loaded|failed to load) '(.+?)'")
_PROGRESS_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ServerFlags:
    """The flags of tritonserver that this project uses.

    Attributes:
        repository_dir: the model repository.
        load_models: models to load at start (explicit model control); ``("*",)`` loads all.
        grpc_port, http_port, metrics_port: 0 chooses a free one.
        admin_key: required by the repository, shared memory, trace and logging APIs as
            ``triton-grpc-protocol-admin-key`` (gRPC) or ``admin-key`` (HTTP); ``None`` leaves these APIs open.
        exit_on_error: whether the server exits when a model fails to load.
        exit_timeout_seconds: time for in-flight requests after SIGTERM.
        log_verbose: 0, or a level from 1.
    """

    repository_dir: Path
    load_models: tuple[str, ...] = ("*",)
    grpc_port: int = 0
    http_port: int = 0
    metrics_port: int = 0
    admin_key: str | None = field(default=None, repr=False)
    exit_on_error: bool = True
    exit_timeout_seconds: int = 30
    log_verbose: int = 0

    def with_free_ports(self) -> ServerFlags:
        """A copy with a free port in place of each 0."""
        free = iter(free_ports(3))
        return replace(
            self,
            grpc_port=self.grpc_port or next(free),
            http_port=self.http_port or next(free),
            metrics_port=self.metrics_port or next(free),
        )

    def arguments(self, backend_dir: Path, cache_dir: Path, region_prefix: str) -> list[str]:
        """The command-line arguments."""
        return [
            f"--model-repository={self.repository_dir}",
            "--model-control-mode=explicit",
            *(f"--load-model={name}" for name in self.load_models),
            f"--exit-on-error={str(self.exit_on_error).lower()}",
            f"--exit-timeout-secs={self.exit_timeout_seconds}",
            # The server stays ready while another model loads.
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
            # The proxy's request id reaches the router's log.
            "--grpc-header-forward-pattern=x-request-id",
            "--http-header-forward-pattern=x-request-id",
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
        flags: including the ports it listens on.
        directory: holds its backend directory and log; removed on stop if ``start`` created it.
    """

    flags: ServerFlags
    directory: Path
    process: subprocess.Popen[bytes]
    region_prefix: str
    _log_start: int = field(repr=False)
    _owns_directory: bool = field(repr=False)

    @classmethod
    def start(
        cls,
        flags: ServerFlags,
        *,
        runtime: EmbeddedRuntime | None = None,
        directory: Path | None = None,
        stall_seconds: float = 180.0,
        given_up: threading.Event | None = None,
    ) -> TritonServer:
        """Start a server and wait until it is ready.

        The server gets SIGTERM when the calling thread dies, so start it from a thread that lives long enough.

        Args:
            runtime: default: that of this checkout.
            directory: where its backend directory and ``server.log`` are created; default: a temporary directory.
            stall_seconds: give up after this time without progress; the total time is not limited.
            given_up: set by another thread to cancel the start with ServerError.

        Raises:
            SetupError: the runtime is not installed.
            ServerError: the server exited, with the reason from its log, or made no progress.
        """
        runtime = runtime or EmbeddedRuntime.find(Settings.from_environment())
        attempts = 1 if flags.grpc_port and flags.http_port and flags.metrics_port else 3
        for attempt in range(attempts):
            server = cls._launch(flags.with_free_ports(), runtime, directory)
            try:
                server._hide_admin_key()
                server.wait_until_ready(stall_seconds, given_up)
            except BaseException as error:
                server.stop(deadline_seconds=5.0)
                # Another process may have taken the port in the meantime.
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
        # Append mode, so that the log can be truncated while the server writes to it.
        with (folder / "server.log").open("ab") as log:
            log_start = log.tell()  # language: allow
            process = subprocess.Popen(
                ending_with_parent(command),
                env=runtime.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # A process group of its own: Ctrl-C reaches only this process, and killpg reaches the stubs too.
                start_new_session=True,
            )
        return cls(flags, folder, process, prefix, log_start, directory is None)

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
        """Whether the process exists; it may still be unresponsive."""
        return self.process.poll() is None

    def wait_until_ready(self, stall_seconds: float, given_up: threading.Event | None = None) -> None:
        """Wait until the server is ready.

        Raises:
            ServerError: it exited, made no progress for ``stall_seconds``, or ``given_up`` was set.
        """
        progress, next_look = Progress(self.pid, self.log_path), time.monotonic()
        with OperatorClient(self.grpc_address) as client:
            while not client.is_ready(1.0):
                if not self.is_alive():
                    raise ServerError(f"tritonserver exited during start: {self.failure_reason()}")
                if given_up and given_up.is_set():
                    raise ServerError("tritonserver was stopped before it was ready")
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + _PROGRESS_SECONDS
                    if progress.stalled_seconds() >= stall_seconds:
                        raise ServerError(self._with_log(f"tritonserver {self._stall(stall_seconds)}"))
                time.sleep(0.05)

    def _stall(self, seconds: float) -> str:
        lines = self._log_lines()
        begun = [found[1] for line in lines if (found := _LOAD_BEGUN.match(line))]
        ended = {found[1] for line in lines if (found := _LOAD_ENDED.match(line))}
        loading = ", ".join(dict.fromkeys(model for model in begun if model not in ended))
        doing = f"loading {loading}" if loading else f"starting; last log line: {in_one_line(' '.join(lines[-1:]))}"
        return f"made no progress for {seconds:.0f} s while {doing}"

    def failure_reason(self) -> str:
        """Why the process ended: a signal, or the last error in its log."""
        code = self.process.poll()
        errors = self._logged_errors()
        if code is not None and code < 0:
            reason = f"killed by {signal.Signals(-code).name}"
        else:
            reason = errors[-1] if errors else f"exit code {code}"
        return self._with_log(reason)

    def _with_log(self, reason: str) -> str:
        # A temporary directory, with its log, is removed on stop.
        return reason if self._owns_directory else f"{reason}; log: {self.log_path}"

    def errors_about(self, model: str) -> list[str]:
        """Errors about ``model`` in the log of this process."""
        return [error for error in self._logged_errors() if re.search(rf"(?<!\w){re.escape(model)}(?!\w)", error)]

    def _logged_errors(self) -> list[str]:
        errors = [in_one_line(found.group(1)) for line in self._log_lines() if (found := _LOGGED_ERROR.match(line))]
        return [error for error in errors if not _NO_CAUSE.match(error)]

    def _log_lines(self) -> list[str]:
        with self.log_path.open("rb") as log:
            log.seek(self._log_start)
            return log.read().decode(errors="replace").splitlines()

    def rotate_log(self, limit_bytes: int) -> None:
        """Move the log to ``server.log.1`` when it exceeds ``limit_bytes``; the server keeps writing."""
        if self.log_path.stat().st_size > limit_bytes:
            shutil.copyfile(self.log_path, self.log_path.with_name("server.log.1"))
            os.truncate(self.log_path, 0)
            self._log_start = 0

    def _hide_admin_key(self) -> None:
        if self.flags.admin_key is None:
            return
        # The first log line follows the parsing of its arguments.
        deadline = time.monotonic() + 10.0
        while self.is_alive() and self.log_path.stat().st_size == self._log_start and time.monotonic() < deadline:
            time.sleep(0.002)
        try:
            hide_argument(self.pid, self.flags.admin_key)
        except OSError as error:
            if self.is_alive():
                _LOG.warning("the admin key is visible in the process list because it could not be hidden: %s", error)

    def stop(self, deadline_seconds: float = 40.0) -> None:
        """Send SIGTERM, so that in-flight requests finish; SIGKILL what remains after the deadline."""
        try:
            if self.is_alive():
                self.process.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(timeout=deadline_seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the server and its stubs, and remove their shared memory."""
        # Stubs that have not noticed the end of the server keep the group alive.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait(timeout=30.0)
        remove_regions(self.region_prefix)
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)
