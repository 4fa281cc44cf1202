"""What ``trireme serve`` leaves in the run directory for other commands, and the lock that lets only one run."""

from __future__ import annotations

import enum
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from trireme.documents import parse_json
from trireme.errors import ServerError
from trireme.file_lock import FileLockedError, is_locked, take_lock
from trireme.files import write_json_atomic


class Phase(str, enum.Enum):
    """Where a replica, or all of what is served, stands."""

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
        phase: in ``serving`` its agent calls it ready; in ``unready`` the server runs and does not answer rightly.
        grpc_address, http_address, metrics_address, agent_address: ``host:port``; the first three are the server's own.
        server_pid, agent_pid: None while there is none.
        restarts: of the server. heals: models loaded anew because their process was gone.
        last_fault: the sentence of the last of these.
        problems: by model loaded, what golden samples found wrong; empty where all is right.
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

    def told_problems(self) -> list[str]:
        """``problems`` as sentences that name the model."""
        return [f"{model}: {found[0]}" for model, found in sorted(self.problems.items()) if found]


@dataclass(frozen=True, slots=True)
class ServingState:
    """One ``trireme serve`` and all that it runs.

    Attributes:
        pid: of ``trireme serve``.
        started_at: of ``trireme serve``, seconds since 1970.
        phase: in ``serving`` at least one replica answers.
        grpc_address, http_address: ``host:port`` of Envoy, where callers on this machine go, without TLS.
        tls_grpc_address, tls_http_address: where callers go with TLS; empty where there is none.
        envoy_admin_address, gateway_address, prometheus_address: empty where there is none.
        replicas: by name.
        orders_done: number of the last order (``Orders``) that was carried out.
        left_out: models not loaded, with the reason.
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
    orders_done: int = 0
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Orders:
    """What ``trireme scale`` and ``trireme restart`` want of a running ``trireme serve``.

    Attributes:
        number: rises with each order.
        replicas: how many there shall be.
        restart: whether each of them shall be restarted in turn.
    """

    number: int
    replicas: int
    restart: bool = False


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The files of one served Triton."""

    path: Path

    @property
    def admin_key_path(self) -> Path:
        return self.path / "admin.key"

    @property
    def _state_path(self) -> Path:
        return self.path / "serving.json"

    @property
    def _orders_path(self) -> Path:
        return self.path / "orders.json"

    @property
    def _lock_path(self) -> Path:
        return self.path / "serve.lock"

    def only_one(self) -> IO[str]:
        """The lock of ``trireme serve``, to be held in a ``with`` statement.

        Raises:
            ServerError: another process holds it; names its pid.
        """
        try:
            return take_lock(self._lock_path, str(os.getpid()), wait_seconds=0.0)
        except FileLockedError as error:
            raise ServerError(
                f"trireme serve runs already, pid {error.owner or 'unknown'}; "
                "see: trireme status, or stop it with Ctrl-C or SIGTERM"
            ) from None

    def is_held(self) -> bool:
        """Whether a ``trireme serve`` runs."""
        return is_locked(self._lock_path)

    def write(self, state: ServingState) -> None:
        write_json_atomic(self._state_path, asdict(state))

    def read(self) -> ServingState | None:
        """The state last written, also by a ``trireme serve`` that is dead; None where there is none."""
        try:
            return parse_json(ServingState, self._state_path.read_bytes())
        except (FileNotFoundError, ValueError):
            # Written by another release: as good as none.
            return None

    def order(self, orders: Orders) -> None:
        write_json_atomic(self._orders_path, asdict(orders))

    def orders(self) -> Orders | None:
        """The last order; None where there was none since ``trireme serve`` began."""
        try:
            return parse_json(Orders, self._orders_path.read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def running(self) -> ServingState:
        """The state of the ``trireme serve`` that runs.

        Raises:
            ServerError: none runs.
        """
        state = self.read() if self.is_held() else None
        if state is None:
            raise ServerError("nothing is being served; start it with: trireme serve")
        return state

    def clear(self) -> None:
        """Forget the state: everything that was served has ended."""
        self._state_path.unlink(missing_ok=True)
        self._orders_path.unlink(missing_ok=True)
