"""The run directory of ``trireme serve``: its state, commands to it, and the lock that allows only one instance."""

from __future__ import annotations

import enum
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from trireme.documents import parse_json
from trireme.errors import ServerError
from trireme.file_lock import FileLockedError, is_locked, take_lock
from trireme.files import write_json_atomic

# Time for a replica to load its models and to drain.
_SECONDS_PER_REPLICA = 240.0


class Phase(str, enum.Enum):
    """Phase of a replica or of the fleet."""

    STARTING = "starting"
    SERVING = "serving"
    UNREADY = "unready"
    RESTARTING = "restarting"
    DRAINING = "draining"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class ReplicaState:
    """One tritonserver with its agent.

    Attributes:
        phase: ``serving`` if its agent reports ready; ``unready`` if the server runs but does not respond correctly.
        grpc_address, http_address, metrics_address, agent_address: ``host:port``; the first three of the server.
        server_pid, agent_pid: None while the process is not running.
        restarts: of the server.
        heals: models reloaded because their process died or hung.
        last_fault: the reason for the last restart or heal.
        problems: by loaded model, problems found by golden samples; empty if none.
    """

    name: str
    zone: str
    phase: Phase
    grpc_address: str
    http_address: str
    metrics_address: str
    agent_address: str
    server_pid: int | None = None
    agent_pid: int | None = None
    restarts: int = 0
    heals: int = 0
    last_fault: str = ""
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def problem_sentences(self) -> list[str]:
        """The first problem of each model, prefixed with the model's name."""
        return [f"{model}: {problems[0]}" for model, problems in sorted(self.problems.items()) if problems]


@dataclass(frozen=True, slots=True)
class ServingState:
    """State of a ``trireme serve`` and everything that it runs.

    Attributes:
        pid: of ``trireme serve``.
        started_at: of ``trireme serve``, seconds since 1970.
        phase: ``serving`` if at least one replica responds.
        grpc_address, http_address: ``host:port`` of Envoy without TLS, for callers on this machine.
        tls_grpc_address, tls_http_address: with TLS; empty without TLS.
        envoy_admin_address, gateway_address, prometheus_address: empty if it is not running.
        replicas: sorted by name.
        commands_done: number of the last executed ``FleetCommand``.
        left_out: skipped models, with the reason.
    """

    pid: int
    started_at: float
    phase: Phase
    grpc_address: str
    http_address: str
    tls_grpc_address: str = ""
    tls_http_address: str = ""
    envoy_admin_address: str = ""
    gateway_address: str = ""
    prometheus_address: str = ""
    replicas: tuple[ReplicaState, ...] = ()
    commands_done: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FleetCommand:
    """A command of ``trireme scale`` or ``trireme restart`` to a running ``trireme serve``.

    Attributes:
        number: increases with each command.
        replicas: the desired number of replicas.
        restart: whether to restart the replicas, one after the other.
    """

    number: int
    replicas: int
    restart: bool = False


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one ``trireme serve``."""

    path: Path

    @property
    def admin_key_path(self) -> Path:
        return self.path / "admin.key"

    @property
    def _state_path(self) -> Path:
        return self.path / "serving.json"

    @property
    def _command_path(self) -> Path:
        return self.path / "command.json"

    @property
    def _lock_path(self) -> Path:
        return self.path / "serve.lock"

    def only_one(self) -> IO[str]:
        """Take the lock of ``trireme serve``; hold it with a ``with`` statement.

        Raises:
            ServerError: another process holds it; names its pid.
        """
        try:
            return take_lock(self._lock_path, str(os.getpid()), wait_seconds=0.0)
        except FileLockedError as error:
            raise ServerError(
                f"trireme serve is already running, pid {error.owner or 'unknown'}; "
                "see trireme status, or stop it with Ctrl-C or SIGTERM"
            ) from None

    def is_held(self) -> bool:
        """Whether a ``trireme serve`` is running."""
        return is_locked(self._lock_path)

    def write(self, state: ServingState) -> None:
        write_json_atomic(self._state_path, asdict(state))

    def read(self) -> ServingState | None:
        """The last state written, even if that ``trireme serve`` is dead; None without one."""
        try:
            return parse_json(ServingState, self._state_path.read_bytes())
        except (FileNotFoundError, ValueError):
            # Missing, or written by an incompatible release.
            return None

    def submit(self, command: FleetCommand) -> None:
        write_json_atomic(self._command_path, asdict(command))

    def last_command(self) -> FleetCommand | None:
        """The last command since ``trireme serve`` started, if any."""
        try:
            return parse_json(FleetCommand, self._command_path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def execute(self, *, replicas: int | None = None, restart: bool = False) -> ServingState:
        """Submit a command to the running ``trireme serve``, wait until it is executed, and return the new state.

        Args:
            replicas: the desired number; None: the current number.

        Raises:
            ServerError: nothing is being served, or the command failed or timed out.
        """
        state = self.running()
        wanted = len(state.replicas) if replicas is None else replicas
        last = self.last_command()
        number = max(state.commands_done, last.number if last else 0) + 1
        self.submit(FleetCommand(number, wanted, restart))
        deadline = time.monotonic() + _SECONDS_PER_REPLICA * max(wanted, len(state.replicas))
        while (state := self.running()).commands_done < number:
            if time.monotonic() > deadline:
                raise ServerError("trireme serve did not execute the command in time; see its log or trireme status")
            time.sleep(0.1)
        if len(state.replicas) != wanted or any(replica.phase is not Phase.SERVING for replica in state.replicas):
            present = ", ".join(f"{replica.name} is {replica.phase.value}" for replica in state.replicas)
            raise ServerError(f"{wanted} replicas requested, but {present}; see {self.path}/serve.log for the reason")
        return state

    def running(self) -> ServingState:
        """The state of the running ``trireme serve``.

        Raises:
            ServerError: nothing is being served.
        """
        state = self.read() if self.is_held() else None
        if state is None:
            raise ServerError("nothing is being served; start it with: trireme serve")
        return state

    def clear(self) -> None:
        """Remove the state after everything has stopped."""
        self._state_path.unlink(missing_ok=True)
        self._command_path.unlink(missing_ok=True)
