"""Keeps one tritonserver answering: starts it, proves it, and starts it again when it dies or freezes."""

from __future__ import annotations

import collections
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from trireme.errors import ServerError
from trireme.golden import load_golden
from trireme.health import Fault, HealthPolicy, HealthWatch
from trireme.loading import plan_loading, variants_not_loaded
from trireme.ports import LOOPBACK
from trireme.repository import ModelRepository
from trireme.run_state import Phase, RunDirectory, ServingState
from trireme.runtime import EmbeddedRuntime
from trireme.server import ServerFlags, TritonServer
from trireme.triton_client import TritonClient

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """How often a server is started again.

    Attributes:
        first_backoff_seconds, most_backoff_seconds: the wait before it; doubles with each crash in the window.
        crashes, window_seconds: more crashes than this within the window end the service.
        log_limit_bytes: the server's log is moved aside when it is larger.
    """

    first_backoff_seconds: float = 0.5
    most_backoff_seconds: float = 30.0
    crashes: int = 5
    window_seconds: float = 300.0
    log_limit_bytes: int = 20 * 1024**2
    health: HealthPolicy = field(default_factory=HealthPolicy)


class Supervisor:
    """One server and the thread that watches over it.

    Example:
        >>> Supervisor(flags, repository, runtime, run_directory, RestartPolicy()).run(announce=print)
    """

    def __init__(
        self,
        flags: ServerFlags,
        repository: ModelRepository,
        runtime: EmbeddedRuntime,
        run_directory: RunDirectory,
        policy: RestartPolicy,
    ) -> None:
        """``flags`` must name the ports, so that a restarted server is found where it was; its models are planned."""
        self._flags = flags
        self._repository = repository
        self._runtime = runtime
        self._directory = run_directory
        self._policy = policy
        self._client = TritonClient(f"{LOOPBACK}:{flags.grpc_port}", flags.admin_key)
        self._server: TritonServer | None = None
        self._crashes: collections.deque[float] = collections.deque()
        self._state = ServingState(
            pid=os.getpid(),
            started_at=time.time(),
            phase=Phase.STARTING,
            grpc_address=f"{LOOPBACK}:{flags.grpc_port}",
            http_address=f"{LOOPBACK}:{flags.http_port}",
            metrics_address=f"{LOOPBACK}:{flags.metrics_port}",
        )

    def run(self, announce: Callable[[ServingState], None]) -> None:
        """Serve until an exception, such as KeyboardInterrupt, ends this; the server is then stopped in order.

        Args:
            announce: called once, when every model has answered its golden samples.

        Raises:
            ServerError: a model does not load or answers wrongly at the first start, or the server crashed too often.
        """
        try:
            watch = self._start()
            if problems := self._state.told_problems():
                raise ServerError("; ".join(problems))
            announce(self._state)
            while True:
                watch = self._restart(self._watch(watch))
        finally:
            self._update(phase=Phase.STOPPING)
            if self._server:
                # Longer than tritonserver's own wait for requests in flight.
                self._server.stop(deadline_seconds=self._flags.exit_timeout_seconds + 10.0)
            self._client.close()
            self._directory.clear()

    def _start(self) -> HealthWatch:
        """Start a server with every model that can be loaded, and prove them; what is wrong goes into the state."""
        plan = plan_loading(self._repository)
        self._update(left_out=plan.left_out, problems={name: (reason,) for name, reason in plan.broken.items()})
        for name, reason in plan.left_out.items():
            _LOG.warning("left out: %s: %s", name, reason)
        if not plan.models:
            reasons = "; ".join([*plan.broken.values(), *plan.left_out.values()])
            raise ServerError(f"no model of {self._repository.path} can be loaded: {reasons or 'there is none'}")
        _LOG.info("starting tritonserver with %d models", len(plan.models))
        health = self._policy.health
        self._server = server = TritonServer.start(
            replace(self._flags, load_models=plan.models, exit_on_error=False),
            runtime=self._runtime,
            directory=self._directory.path / "server",
            ready_deadline_seconds=health.load_deadline_seconds,
        )
        self._update(server_pid=server.pid)
        unloaded = self._unloaded(server, plan.models)
        loaded = [name for name in plan.models if name not in unloaded]
        samples = {}
        for folder in map(self._repository.model, loaded):
            if lacking := variants_not_loaded(folder, loaded):
                # Its samples ask for these, and a fallback's answer would be another than the golden one.
                _LOG.warning("golden samples of %s are not asked: it lacks %s", folder.name, ", ".join(lacking))
            else:
                samples[folder.name] = load_golden(folder)
        _LOG.info("asking the golden samples of %d models", len(samples))
        watch = HealthWatch(server, self._client, self._repository, samples, health)
        watch.prove_all()
        self._update(phase=Phase.SERVING, problems={**self._state.problems, **unloaded, **watch.problems})
        return watch

    def _unloaded(self, server: TritonServer, models: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
        """Models that the server could not load, with its reason; some of these stand only in its log."""
        index = self._client.index(self._policy.health.probe_deadline_seconds)
        ready = {entry.model for entry in index if entry.state == "READY"}
        reasons = {entry.model: entry.reason for entry in index if entry.reason}
        return {
            name: (f"not loaded: {reasons.get(name) or ' '.join(server.errors_about(name)[-1:]) or 'see its log'}",)
            for name in models
            if name not in ready
        }

    def _watch(self, watch: HealthWatch) -> Fault:
        """Look at the server until it needs a restart."""
        assert self._server is not None
        heals_before, unwatched = self._state.heals, self._state.problems
        while True:
            self._server.wait_for_end(self._policy.health.interval_seconds)
            if fault := watch.look():
                return fault
            self._server.bound_log(self._policy.log_limit_bytes)
            self._update(
                problems={**unwatched, **watch.problems},
                heals=heals_before + watch.heals,
                last_fault=watch.last_heal or self._state.last_fault,
            )

    def _restart(self, fault: Fault) -> HealthWatch:
        policy = self._policy
        while True:
            now = time.monotonic()
            self._crashes.append(now)
            while now - self._crashes[0] > policy.window_seconds:
                self._crashes.popleft()
            if len(self._crashes) > policy.crashes:
                raise ServerError(
                    f"gave up after {policy.crashes} restarts in {policy.window_seconds:.0f} s: {fault.reason}"
                )
            self._update(phase=Phase.RESTARTING, restarts=self._state.restarts + 1, last_fault=fault.reason)
            backoff = min(policy.first_backoff_seconds * 2 ** (len(self._crashes) - 1), policy.most_backoff_seconds)
            _LOG.warning("%s; starting it again in %.1f s", fault.reason, backoff)
            self._end(fault)
            time.sleep(backoff)
            try:
                return self._start()
            except ServerError as error:
                fault = Fault(str(error))

    def _end(self, fault: Fault) -> None:
        if self._server is None:
            return
        if fault.frozen:
            self._server.kill()
        else:
            self._server.stop(deadline_seconds=10.0)
        self._server = None
        self._update(server_pid=None)

    def _update(self, **changes: object) -> None:
        state = replace(self._state, **changes)  # type: ignore[arg-type]
        if state != self._state:
            self._state = state
            self._directory.write(state)
