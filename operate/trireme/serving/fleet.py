"""All that one ``trireme serve`` runs: replicas, Envoy before them, the gateway, Prometheus."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from types import TracebackType

from trireme.errors import ServerError, describe
from trireme.processes.ports import LOOPBACK, free_ports, is_listening
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.server import ServerFlags
from trireme.processes.supervised import KeptChild
from trireme.repository.folders import ModelRepository
from trireme.serving.envoy.endpoint import Endpoint, FrontDoor
from trireme.serving.envoy.supervised import KeptEnvoy
from trireme.serving.prometheus import Prometheus, targets_of
from trireme.serving.replica import Replica, ReplicaPlan, RestartPolicy
from trireme.serving.run_state import Orders, Phase, RunDirectory, ServingState
from trireme.settings import Settings

_LOG = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.25
# What Envoy needs at most to take its hands off a replica, after it was told and before the replica ends.
_RELEASE_SECONDS = 0.5
# For Envoy to see that a new replica is ready.
_NOTICE_SECONDS = 10.0
# For requests in flight, when everything ends.
_FINISH_SECONDS = 30.0
_GATEWAY_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """How many replicas, where, behind which door.

    Attributes:
        zones: the replicas' zones, in turn.
        metrics_port: of the first replica's server; the others take what is free.
        gateway_port: where the gateway listens, if it is installed; 0: none.
        prometheus: watches over all of it; None where this machine has none.
    """

    settings: Settings
    directory: RunDirectory
    runtime: EmbeddedRuntime
    replicas: int
    zones: Sequence[str]
    door: FrontDoor
    metrics_port: int
    admin_key: str
    gateway_port: int = 0
    prometheus: Prometheus | None = None


class StartTurn:
    """One server starts at a time: models that load take all cores, and a starved stub can abort its server.

    Where no replica answers callers, none waits for another.

    Example:
        >>> turn = StartTurn(someone_serves=lambda: True)
        >>> with turn(): ...
    """

    def __init__(self, someone_serves: Callable[[], bool]) -> None:
        self._someone_serves = someone_serves
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        taken = self._lock.acquire(blocking=False)
        while not taken and self._someone_serves():
            taken = self._lock.acquire(timeout=_INTERVAL_SECONDS)
        try:
            yield
        finally:
            if taken:
                self._lock.release()


class Fleet:
    """Example:
    >>> fleet = Fleet(plan, RestartPolicy())
    >>> with fleet as state:
    ...     print(state.grpc_address)
    ...     fleet.watch()
    """

    def __init__(self, plan: FleetPlan, policy: RestartPolicy) -> None:
        self._plan = plan
        self._policy = policy
        self._repository = ModelRepository(plan.settings.repository_dir)
        self._replicas: list[Replica] = []
        self._envoy = KeptEnvoy(plan.directory.path / "envoy", plan.door)
        self._has_started = False
        self._gateway = _gateway(plan)
        self._ordered: threading.Thread | None = None
        self._stopping = False
        self._start_turn = StartTurn(lambda: any(r.state.phase is Phase.SERVING for r in self._replicas))
        self._fault = ""
        self._lock = threading.Lock()
        self._state = ServingState(
            pid=os.getpid(),
            started_at=time.time(),
            phase=Phase.STARTING,
            grpc_address=plan.door.local_grpc_address,
            http_address=plan.door.local_http_address,
            tls_grpc_address=plan.door.grpc_address if plan.door.tls else "",
            tls_http_address=plan.door.http_address if plan.door.tls else "",
            envoy_admin_address=f"{plan.door.admin_host}:{plan.door.admin_port}",
            gateway_address=f"{LOOPBACK}:{plan.gateway_port}" if self._gateway else "",
            prometheus_address=plan.prometheus.address if plan.prometheus else "",
        )

    def __enter__(self) -> ServingState:
        """Start everything; gives the state once every replica is ready.

        Raises:
            TriremeError: a model does not load or answers wrongly, or there is no room for a part of it.
        """
        try:
            # One after the other: models that load take all cores, and a starved stub can abort its server.
            for number in range(self._plan.replicas):
                self._add(number, self._next_zone())
            self._envoy.start(self._endpoints())
            self._has_started = True
            if self._gateway:
                self._await_gateway(self._gateway)
            self._tell(phase=Phase.SERVING)
        except BaseException:
            self._stop()
            raise
        return self._state

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let requests in flight be answered, then stop everything, callers' side first."""
        self._stop()

    def _await_gateway(self, gateway: KeptChild) -> None:
        """Its address is printed as ready. One that does not start is logged, and no reason to stop serving."""
        deadline = time.monotonic() + _GATEWAY_START_SECONDS
        gateway.keep()
        while not is_listening(self._plan.gateway_port):
            if time.monotonic() > deadline:
                _LOG.error("gateway: nothing listens on port %d yet; see gateway.log", self._plan.gateway_port)
                return
            time.sleep(0.05)
            gateway.keep()

    def watch(self) -> None:
        """Keep it going until KeyboardInterrupt ends this. What fails is logged, and tried again."""
        while True:
            fault = ""
            try:
                self._look()
            except Exception as error:
                fault = describe(error)
                if fault != self._fault:
                    _LOG.error("%s", fault)
            self._fault = fault
            time.sleep(_INTERVAL_SECONDS)

    def _look(self) -> None:
        self._envoy.keep()
        if self._gateway:
            self._gateway.keep()
        if self._plan.prometheus:
            self._plan.prometheus.keep(targets_of(self._state))
        orders = self._plan.directory.orders()
        if orders and orders.number > self._state.orders_done and not (self._ordered and self._ordered.is_alive()):
            # It takes its time, and the others must be looked after in the meantime.
            self._ordered = threading.Thread(target=self._carry_out, args=[orders], name="orders", daemon=True)
            self._ordered.start()

    def _carry_out(self, orders: Orders) -> None:
        try:
            while len(self._replicas) < orders.replicas:
                self._add(self._next_number(), self._next_zone())
            while len(self._replicas) > max(orders.replicas, 1):
                self._remove(self._replicas[-1])
            for replica in list(self._replicas) if orders.restart else ():
                _LOG.info("restarting replica %s", replica.state.name)
                self._remove(replica)
                self._add(_number_of(replica), replica.state.zone, replaces=True)
        except Exception as error:
            _LOG.error("order %d: %s", orders.number, describe(error))
        self._tell(orders_done=orders.number)

    def _next_number(self) -> int:
        taken = set(map(_number_of, self._replicas))
        return next(number for number in itertools.count() if number not in taken)

    def _next_zone(self) -> str:
        """The zone with the fewest replicas, the first of those."""
        taken = [replica.state.zone for replica in self._replicas]
        return min(self._plan.zones, key=taken.count)

    def _add(self, number: int, zone: str, *, replaces: bool = False) -> None:
        """Start a replica, and have callers reach it once it is ready.

        One that ``replaces`` another stays where it does not become ready, and goes on trying.
        """
        if self._stopping:
            raise ServerError("trireme serve is stopping")
        for attempts_left in (2, 1, 0):
            replica = self._make(number, zone)
            try:
                self._start(replica)
                break
            except BaseException as error:
                # Another process may have taken a port between choosing and listening.
                port_is_taken = isinstance(error, ServerError) and "in use" in str(error) and attempts_left > 0
                if port_is_taken or not replaces:
                    replica.stop()
                    self._replicas.remove(replica)
                    self._tell()
                else:
                    self._envoy.set_endpoints(self._endpoints())
                if not port_is_taken:
                    raise
        if self._has_started:
            self._envoy.set_endpoints(self._endpoints())
            self._await_requests(replica.state.name)

    def _make(self, number: int, zone: str) -> Replica:
        ports = list(free_ports(3))
        if number == 0 and self._plan.metrics_port:
            ports[2] = self._plan.metrics_port
        settings = self._plan.settings
        name = f"r{number}"
        return Replica(
            ReplicaPlan(
                name=name,
                zone=zone,
                flags=ServerFlags(
                    settings.repository_dir,
                    grpc_port=ports[0],
                    http_port=ports[1],
                    metrics_port=ports[2],
                    admin_key=self._plan.admin_key,
                ),
                directory=self._plan.directory.path / "replicas" / name,
                repository=self._repository,
                runtime=self._plan.runtime,
                admin_key_path=self._plan.directory.admin_key_path,
                environment={
                    "TRIREME_PROJECT_DIR": str(settings.project_dir),
                    "TRIREME_REPOSITORY_DIR": str(settings.repository_dir),
                    "TRIREME_STATE_DIR": str(settings.state_dir),
                },
            ),
            self._policy,
            changed=self._tell,
            start_turn=self._start_turn,
        )

    def _start(self, replica: Replica) -> None:
        self._replicas = sorted([*self._replicas, replica], key=_number_of)
        replica.start()
        # At the first start someone looks on; later one model that fails must not keep a replica away.
        replica.wait_until_settled(every_model=not self._has_started)

    def _await_requests(self, name: str) -> None:
        """Wait until Envoy gives a replica requests, so that another one may go."""
        deadline = time.monotonic() + _NOTICE_SECONDS
        while not self._envoy.gives_requests_to().get(name) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _remove(self, replica: Replica) -> None:
        """Have callers leave a replica, and end it when their requests are answered."""
        self._replicas.remove(replica)
        self._envoy.set_endpoints(self._endpoints())
        # Envoy has let go of it: nothing new comes while it drains.
        time.sleep(_RELEASE_SECONDS)
        replica.drain()
        replica.stop()
        self._tell()

    def _endpoints(self) -> list[Endpoint]:
        return [replica.endpoint for replica in self._replicas]

    def _tell(self, **changes: object) -> None:
        """Write the state anew, if it has changed; called from all threads."""
        with self._lock:
            replicas = tuple(replica.state for replica in self._replicas)
            left_out = next((replica.left_out for replica in self._replicas if replica.left_out), {})
            for name, reason in left_out.items():
                if self._state.left_out.get(name) != reason:
                    _LOG.warning("left out: %s: %s", name, reason)
            state = replace(self._state, replicas=replicas, left_out=left_out, **changes)  # type: ignore[arg-type]
            if state != self._state:
                self._state = state
                try:
                    self._plan.directory.write(state)
                except OSError as error:
                    # A full disk must not end what looks after a replica.
                    _LOG.error("%s: cannot be written: %s", self._plan.directory.path, error)

    def _stop(self) -> None:
        self._stopping = True
        self._tell(phase=Phase.STOPPING)
        if self._gateway:
            self._gateway.stop(deadline_seconds=_FINISH_SECONDS)
        self._envoy.finish(_FINISH_SECONDS)
        stopping = [threading.Thread(target=replica.stop) for replica in self._replicas]
        for thread in stopping:
            thread.start()
        for thread in [*stopping, *([self._ordered] if self._ordered else [])]:
            thread.join()
        if self._plan.prometheus:
            self._plan.prometheus.stop()
        self._plan.directory.clear()


def _number_of(replica: Replica) -> int:
    return int(replica.state.name.removeprefix("r"))


def _gateway(plan: FleetPlan) -> KeptChild | None:
    """Nothing where there shall be none, or where the package above this one is not installed."""
    if not plan.gateway_port or not entry_points(group="trireme.commands", name="gateway"):
        return None
    command = [sys.executable, "-m", "trireme.cli", "gateway"]
    command += [f"--triton={plan.door.local_grpc_address}", f"--triton-http={plan.door.local_http_address}"]
    command += [f"--listen={LOOPBACK}:{plan.gateway_port}"]
    return KeptChild("gateway", command, plan.directory.path / "gateway.log")
