"""Everything that ``trireme serve`` runs: replicas, Envoy, the gateway, Prometheus."""

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
from trireme.processes.supervised import SupervisedProcess
from trireme.repository.folders import ModelRepository
from trireme.serving.envoy.proxy_config import ProxyConfig, ReplicaEndpoint
from trireme.serving.envoy.supervised import SupervisedEnvoy
from trireme.serving.prometheus import Prometheus, targets_of
from trireme.serving.replica import Replica, ReplicaPlan, RestartPolicy
from trireme.serving.run_state import FleetCommand, Phase, RunDirectory, ServingState
from trireme.settings import Settings

_LOG = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.25
# Upper bound for Envoy to apply a change of its endpoints.
_ENDPOINT_UPDATE_SECONDS = 0.5
# Time for Envoy to detect that a new replica is ready.
_HEALTH_CHECK_SECONDS = 10.0
# Time for requests in flight when everything stops.
_DRAIN_SECONDS = 30.0
_GATEWAY_START_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """Configuration of a fleet.

    Attributes:
        zones: replicas are distributed evenly over them.
        metrics_port: of the first replica's server; the others use free ports. 0: a free port as well.
        gateway_port: of the gateway, if it is installed; 0: no gateway.
        prometheus: None if it is not installed.
    """

    settings: Settings
    directory: RunDirectory
    runtime: EmbeddedRuntime
    replicas: int
    zones: Sequence[str]
    proxy: ProxyConfig
    metrics_port: int
    admin_key: str
    gateway_port: int = 0
    prometheus: Prometheus | None = None


class StartTurn:
    """Serializes server starts: loading models takes all cores, and a starved stub can abort its server.

    No server waits for another while no replica is ready.

    Example:
        >>> turn = StartTurn(any_ready=lambda: True)
        >>> with turn(): ...
    """

    def __init__(self, any_ready: Callable[[], bool]) -> None:
        self._any_ready = any_ready
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        taken = self._lock.acquire(blocking=False)
        while not taken and self._any_ready():
            taken = self._lock.acquire(timeout=_INTERVAL_SECONDS)
        try:
            yield
        finally:
            if taken:
                self._lock.release()


class Fleet:
    """Replicas behind Envoy, with gateway and Prometheus; each process is restarted if it fails.

    Example:
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
        self._envoy = SupervisedEnvoy(plan.directory.path / "envoy", plan.proxy)
        self._has_started = False
        self._gateway = _gateway(plan)
        self._command_thread: threading.Thread | None = None
        self._stopping = False
        self._start_turn = StartTurn(lambda: any(r.state.phase is Phase.SERVING for r in self._replicas))
        self._fault = ""
        self._lock = threading.Lock()
        self._state = ServingState(
            pid=os.getpid(),
            started_at=time.time(),
            phase=Phase.STARTING,
            grpc_address=plan.proxy.local_grpc_address,
            http_address=plan.proxy.local_http_address,
            tls_grpc_address=plan.proxy.grpc_address if plan.proxy.tls else "",
            tls_http_address=plan.proxy.http_address if plan.proxy.tls else "",
            envoy_admin_address=plan.proxy.admin_address,
            gateway_address=f"{LOOPBACK}:{plan.gateway_port}" if self._gateway else "",
            prometheus_address=plan.prometheus.address if plan.prometheus else "",
        )

    def __enter__(self) -> ServingState:
        """Start everything; return the state when every replica is ready.

        Raises:
            TriremeError: a model does not load or responds incorrectly, or a resource is exhausted.
        """
        try:
            # One after the other: loading models takes all cores, and a starved stub can abort its server.
            for number in range(self._plan.replicas):
                self._add(number, self._next_zone())
            self._envoy.start(self._endpoints())
            self._has_started = True
            if self._gateway:
                self._await_gateway(self._gateway)
            self._update(phase=Phase.SERVING)
        except BaseException:
            self._stop()
            raise
        return self._state

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Drain, then stop everything, starting with the listeners."""
        self._stop()

    def _await_gateway(self, gateway: SupervisedProcess) -> None:
        """Wait until the gateway listens, since its address is printed as ready; serve without it on timeout."""
        deadline = time.monotonic() + _GATEWAY_START_SECONDS
        gateway.ensure_running()
        while not is_listening(self._plan.gateway_port):
            if time.monotonic() > deadline:
                _LOG.error("gateway: not listening on port %d yet; see gateway.log", self._plan.gateway_port)
                return
            time.sleep(0.05)
            gateway.ensure_running()

    def watch(self) -> None:
        """Supervise everything until KeyboardInterrupt. Failures are logged and retried."""
        while True:
            fault = ""
            try:
                self._check()
            except Exception as error:
                fault = describe(error)
                if fault != self._fault:
                    _LOG.error("%s", fault)
            self._fault = fault
            time.sleep(_INTERVAL_SECONDS)

    def _check(self) -> None:
        self._envoy.ensure_running()
        if self._gateway:
            self._gateway.ensure_running()
        if self._plan.prometheus:
            self._plan.prometheus.ensure_running(targets_of(self._state))
        command, executing = self._plan.directory.last_command(), self._command_thread
        if command and command.number > self._state.commands_done and not (executing and executing.is_alive()):
            # In a thread: a command can take minutes, and supervision must continue.
            self._command_thread = threading.Thread(target=self._execute, args=[command], name="command", daemon=True)
            self._command_thread.start()

    def _execute(self, command: FleetCommand) -> None:
        try:
            while len(self._replicas) < command.replicas:
                self._add(self._next_number(), self._next_zone())
            while len(self._replicas) > max(command.replicas, 1):
                self._remove(self._replicas[-1])
            for replica in list(self._replicas) if command.restart else ():
                _LOG.info("restarting replica %s", replica.state.name)
                self._remove(replica)
                self._add(_number_of(replica), replica.state.zone, replaces=True)
        except Exception as error:
            _LOG.error("command %d: %s", command.number, describe(error))
        self._update(commands_done=command.number)

    def _next_number(self) -> int:
        taken = set(map(_number_of, self._replicas))
        return next(number for number in itertools.count() if number not in taken)

    def _next_zone(self) -> str:
        """The first zone with the fewest replicas."""
        taken = [replica.state.zone for replica in self._replicas]
        return min(self._plan.zones, key=taken.count)

    def _add(self, number: int, zone: str, *, replaces: bool = False) -> None:
        """Start a replica, and route requests to it when it is ready.

        A replica that ``replaces`` another one is kept even if it does not become ready, and restarted until it is.
        """
        if self._stopping:
            raise ServerError("trireme serve is stopping")
        for attempts_left in (2, 1, 0):
            replica = self._new_replica(number, zone)
            try:
                self._replicas = sorted([*self._replicas, replica], key=_number_of)
                replica.start()
                # The first start is attended, so any failing model is an error; later, one must not block a replica.
                replica.wait_until_settled(every_model=not self._has_started)
                break
            except BaseException as error:
                # Another process may have taken a port before the server listened on it.
                port_is_taken = isinstance(error, ServerError) and "in use" in str(error) and attempts_left > 0
                if port_is_taken or not replaces:
                    replica.stop()
                    self._replicas.remove(replica)
                    self._update()
                else:
                    self._envoy.set_endpoints(self._endpoints())
                if not port_is_taken:
                    raise
        if self._has_started:
            self._envoy.set_endpoints(self._endpoints())
            self._await_health(replica.state.name)

    def _new_replica(self, number: int, zone: str) -> Replica:
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
            changed=self._update,
            start_turn=self._start_turn,
        )

    def _await_health(self, name: str) -> None:
        """Wait until Envoy sends requests to a replica, so that another one may be removed."""
        deadline = time.monotonic() + _HEALTH_CHECK_SECONDS
        while not self._envoy.replica_health().get(name) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _remove(self, replica: Replica) -> None:
        """Drain a replica, then stop it."""
        self._replicas.remove(replica)
        self._envoy.set_endpoints(self._endpoints())
        # Afterwards the replica receives no new requests.
        time.sleep(_ENDPOINT_UPDATE_SECONDS)
        replica.drain()
        replica.stop()
        self._update()

    def _endpoints(self) -> list[ReplicaEndpoint]:
        return [replica.endpoint for replica in self._replicas]

    def _update(self, **changes: object) -> None:
        """Write the state if it changed; called from all threads."""
        with self._lock:
            replicas = tuple(replica.state for replica in self._replicas)
            left_out = next((replica.left_out for replica in self._replicas if replica.left_out), {})
            for name, reason in left_out.items():
                if self._state.left_out.get(name) != reason:
                    _LOG.warning("skipped: %s: %s", name, reason)
            state = replace(self._state, replicas=replicas, left_out=left_out, **changes)  # type: ignore[arg-type]
            if state != self._state:
                self._state = state
                try:
                    self._plan.directory.write(state)
                except OSError as error:
                    # A full disk must not stop the supervision of a replica.
                    _LOG.error("%s: cannot be written: %s", self._plan.directory.path, error)

    def _stop(self) -> None:
        self._stopping = True
        self._update(phase=Phase.STOPPING)
        if self._gateway:
            self._gateway.stop(deadline_seconds=_DRAIN_SECONDS)
        self._envoy.finish(_DRAIN_SECONDS)
        stopping = [threading.Thread(target=replica.stop) for replica in self._replicas]
        for thread in stopping:
            thread.start()
        for thread in [*stopping, *([self._command_thread] if self._command_thread else [])]:
            thread.join()
        if self._plan.prometheus:
            self._plan.prometheus.stop()
        self._plan.directory.clear()


def _number_of(replica: Replica) -> int:
    return int(replica.state.name.removeprefix("r"))


def _gateway(plan: FleetPlan) -> SupervisedProcess | None:
    """The gateway; None if it is disabled or its package is not installed."""
    if not plan.gateway_port or not entry_points(group="trireme.commands", name="gateway"):
        return None
    command = [sys.executable, "-m", "trireme.cli", "gateway"]
    command += [f"--triton={plan.proxy.local_grpc_address}", f"--triton-http={plan.proxy.local_http_address}"]
    command += [f"--listen={LOOPBACK}:{plan.gateway_port}"]
    return SupervisedProcess("gateway", command, plan.directory.path / "gateway.log")
