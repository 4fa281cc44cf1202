"""One replica: a tritonserver and its agent, each restarted when it exits or hangs."""

from __future__ import annotations

import collections
import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from trireme_client import OperatorClient

from trireme.agent.process import AgentFlags, AgentProcess, AgentReport, AgentState
from trireme.errors import ServerError, TriremeError, describe
from trireme.files import write_atomic
from trireme.processes.ports import LOOPBACK, free_ports
from trireme.processes.progress import Progress
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.server import ServerFlags, TritonServer
from trireme.repository.folders import ModelRepository
from trireme.repository.loading import plan_loading
from trireme.serving.catch_up import catch_up
from trireme.serving.envoy.proxy_config import ReplicaEndpoint
from trireme.serving.run_state import Phase, ReplicaState

_LOG = logging.getLogger(__name__)

# An agent that does not listen yet and makes no progress for this long is restarted.
_AGENT_STALL_SECONDS = 20.0
# Time for the agent's first verdict after the server has started.
_VERDICT_SECONDS = 300.0
# A new replica may crash this often before it is ready.
_MAX_FIRST_RESTARTS = 3


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When to restart a replica's server and agent. The number of restarts is unlimited.

    Attributes:
        first_backoff_seconds, max_backoff_seconds: pause before a restart; doubles with each crash in the window.
        window_seconds: how long a crash counts.
        interval_seconds: between checks of the server and its agent.
        stall_seconds: a start without progress for this long has failed.
        load_deadline_seconds: for each model that was released while the server started.
        agent_silence_seconds: an agent that does not respond for this long is restarted.
        log_limit_bytes: a larger log is rotated.
    """

    first_backoff_seconds: float = 0.5
    max_backoff_seconds: float = 30.0
    window_seconds: float = 300.0
    interval_seconds: float = 0.5
    stall_seconds: float = 180.0
    load_deadline_seconds: float = 180.0
    agent_silence_seconds: float = 6.0
    log_limit_bytes: int = 20 * 1024**2


@dataclass(frozen=True, slots=True)
class ReplicaPlan:
    """Configuration of a replica.

    Attributes:
        flags: of its server, with ports; the models to load are planned at each start.
        directory: for its server, logs and pid file.
        environment: variables for its agent, with the location of the repository.
    """

    name: str
    zone: str
    flags: ServerFlags
    directory: Path
    repository: ModelRepository
    runtime: EmbeddedRuntime
    admin_key_path: Path
    environment: Mapping[str, str]


class Replica:
    """A thread that supervises one replica until it is stopped.

    Attributes:
        state: replaced whenever something changes.
        left_out: skipped models, with the reason.
        failure: the reason if the first start failed; the thread keeps retrying until it is stopped.

    Example:
        >>> replica = Replica(plan, RestartPolicy(), changed=lambda: None, start_turn=contextlib.nullcontext)
        >>> replica.start()
        >>> replica.stop()
    """

    def __init__(
        self,
        plan: ReplicaPlan,
        policy: RestartPolicy,
        changed: Callable[[], None],
        start_turn: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """
        Args:
            changed: called in the replica's thread whenever ``state`` or ``left_out`` has changed.
            start_turn: context manager, held while the server starts.
        """
        self._plan = plan
        self._policy = policy
        self._log = logging.LoggerAdapter(_LOG, {"replica": plan.name, "zone": plan.zone})
        self._start_turn = start_turn
        self._changed = changed
        (agent_port,) = free_ports(1)
        self._server_pid_path = plan.directory / "server.pid"
        name, zone, flags = plan.name, plan.zone, plan.flags
        self.endpoint = ReplicaEndpoint(name, zone, LOOPBACK, flags.grpc_port, flags.http_port, agent_port)
        grpc, http, metrics, agent = (
            f"{LOOPBACK}:{port}" for port in (flags.grpc_port, flags.http_port, flags.metrics_port, agent_port)
        )
        self._agent_flags = AgentFlags(name, zone, grpc, metrics, agent, plan.admin_key_path, self._server_pid_path)
        self.state = ReplicaState(name, zone, Phase.STARTING, grpc, http, metrics, agent)
        self.left_out: Mapping[str, str] = {}
        self.failure: TriremeError | None = None
        self._server: TritonServer | None = None
        self._agent: AgentProcess | None = None
        self._unloaded: dict[str, tuple[str, ...]] = {}
        self._agent_progress: Progress | None = None
        self._last_report_at = 0.0
        self._agent_error = ""
        self._heals_before = 0
        self._crashes: collections.deque[float] = collections.deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=plan.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def drain(self) -> None:
        """Make the agent report not ready, so that the replica receives no new requests."""
        self._update(phase=Phase.DRAINING)
        if self._agent:
            # An agent that does not respond is not ready either.
            with contextlib.suppress(ServerError):
                self._agent.drain()

    def stop(self) -> None:
        """Let requests in flight finish, then stop server and agent; returns when they have exited."""
        self._stopping.set()
        # Longer than tritonserver waits for requests in flight.
        self._thread.join(timeout=self._plan.flags.exit_timeout_seconds + 20.0)

    def wait_until_settled(self, *, every_model: bool) -> None:
        """Wait for the agent's first verdict. A start has no deadline while it makes progress.

        Args:
            every_model: whether a problem of any model is an error; otherwise only a replica that is not ready.

        Raises:
            TriremeError: the replica did not start, was stopped or responds incorrectly, or the verdict timed out.
        """
        deadline = math.inf
        while True:
            state = self.state
            if self.failure:
                raise self.failure
            if self._stopping.is_set():
                raise ServerError(f"replica {state.name} was stopped before it was ready")
            problems = state.problem_sentences()
            if (problems and every_model) or state.phase is Phase.UNREADY:
                raise ServerError("; ".join(problems) or f"replica {state.name}: {state.last_fault}")
            if state.phase is Phase.SERVING:
                return
            if state.restarts > _MAX_FIRST_RESTARTS:
                raise ServerError(
                    f"replica {state.name} restarted {state.restarts} times before it was ready: {state.last_fault}"
                )
            if state.server_pid is None:
                deadline = time.monotonic() + _VERDICT_SECONDS
            elif time.monotonic() > deadline:
                raise ServerError(
                    f"agent of replica {state.name}: no verdict within {_VERDICT_SECONDS:.0f} s: "
                    f"{state.last_fault or 'golden samples are still in progress'}"
                )
            time.sleep(0.05)

    # Everything below runs in the thread, because the server ends with the thread that started it.

    def _run(self) -> None:
        try:
            try:
                # In parallel with the server, so that the agent is ready when the server is.
                self._start_agent()
                self._start_server()
            except Exception as error:
                self._record(error)
                self.failure = error if isinstance(error, TriremeError) else ServerError(describe(error))
                # The caller of wait_until_settled decides whether to stop it.
                self._stopping.wait(self._policy.interval_seconds)
            while not self._stopping.is_set():
                try:
                    self._check()
                except Exception as error:
                    # No error may end the supervision.
                    self._record(error)
                    self._stopping.wait(self._policy.interval_seconds)
        finally:
            self._update(phase=Phase.STOPPING)
            if self._server:
                self._server.stop(deadline_seconds=self._plan.flags.exit_timeout_seconds + 10.0)
            if self._agent:
                self._agent.child.kill()
            self._update(server_pid=None, agent_pid=None)

    def _record(self, error: Exception) -> None:
        if self.state.last_fault != describe(error):
            self._log.error("replica %s: %s", self.state.name, describe(error))
        self._update(last_fault=describe(error))

    def _check(self) -> None:
        policy = self._policy
        report = self._agent_report()
        if self._server is None:
            self._restart(self.state.last_fault)
        elif not self._server.is_alive():
            self._restart(f"tritonserver exited unexpectedly: {self._server.failure_reason()}")
        elif report and report.state is AgentState.DEAD:
            self._restart(report.fault)
        else:
            if report:
                self._apply(report)
            self._server.rotate_log(policy.log_limit_bytes)
            self._stopping.wait(policy.interval_seconds)

    def _apply(self, report: AgentReport) -> None:
        phase = self.state.phase
        if phase is not Phase.DRAINING:
            if report.state is AgentState.READY:
                phase = Phase.SERVING
            elif phase is Phase.SERVING or report.state is AgentState.UNREADY:
                phase = Phase.UNREADY
        # The agent knows whether a model has been loaded since then; the server's log has the more precise reason.
        unloaded = {model: why for model, why in self._unloaded.items() if report.problems.get(model, why)}
        heals = self._heals_before + report.heals
        fault = report.last_heal if heals > self.state.heals else self.state.last_fault
        if report.state is AgentState.UNREADY:
            fault = report.fault
        if report.error and report.error != self._agent_error:
            fault = f"its agent cannot check it: {report.error}"
            self._log.warning("replica %s: %s", self.state.name, fault)
        self._agent_error = report.error
        self._update(phase=phase, problems={**report.problems, **unloaded}, heals=heals, last_fault=fault)

    def _agent_report(self) -> AgentReport | None:
        """Return the agent's report on the current server, if any; restart an agent that exited or does not respond."""
        agent, now = self._agent, time.monotonic()
        if agent and agent.child.is_alive():
            report = agent.report()
            if report:
                self._agent_progress, self._last_report_at = None, now
                return report if self._server and report.server_pid == self._server.pid else None
            if self._agent_progress:
                # The agent does not listen yet.
                if self._agent_progress.stalled_seconds() < _AGENT_STALL_SECONDS:
                    return None
            elif now - self._last_report_at < self._policy.agent_silence_seconds:
                return None
        if agent:
            reason = agent.child.last_log_line()
            self._log.warning("agent of replica %s: exited or does not respond: %s", self.state.name, reason)
            agent.child.kill()
            self._stopping.wait(self._policy.first_backoff_seconds)
            self._heals_before = self.state.heals
        self._start_agent()
        return None

    def _start_agent(self) -> None:
        log_path = self._plan.directory / "agent.log"
        self._agent = AgentProcess.start(self._agent_flags, log_path, self._plan.environment)
        self._agent_progress = Progress(self._agent.child.pid, log_path)
        self._update(agent_pid=self._agent.child.pid)

    def _start_server(self) -> None:
        """Start a server with all models that can be loaded; problems of the others go into the state."""
        plan = plan_loading(self._plan.repository)
        self._unloaded = {name: (reason,) for name, reason in plan.broken.items()}
        self.left_out = plan.left_out
        self._changed()
        if not plan.models:
            reasons = "; ".join([*plan.broken.values(), *plan.left_out.values()])
            raise ServerError(f"{self._plan.repository.path}: no model can be loaded: {reasons or 'it has no models'}")
        started_at = time.time()
        # The agent must not check this server before it has loaded its models and caught up.
        self._server_pid_path.unlink(missing_ok=True)
        with self._start_turn():
            self._log.info("replica %s: starting tritonserver with %d models", self.state.name, len(plan.models))
            self._server = server = TritonServer.start(
                replace(self._plan.flags, load_models=plan.models, exit_on_error=False),
                runtime=self._plan.runtime,
                directory=self._plan.directory,
                stall_seconds=self._policy.stall_seconds,
                given_up=self._stopping,
            )
        with OperatorClient(server.grpc_address, self._plan.flags.admin_key) as client:
            catch_up(
                client,
                self._plan.repository,
                loaded=plan.models,
                since=started_at,
                deadline_seconds=self._policy.load_deadline_seconds,
            )
            self._unloaded |= _not_loaded(client, server, plan.models)
        # The agent starts to check the server.
        write_atomic(self._server_pid_path, str(server.pid).encode())
        self._update(server_pid=server.pid, problems=self._unloaded)

    def _restart(self, fault: str) -> None:
        """Restart the server until it runs; recent crashes only lengthen the backoff."""
        policy = self._policy
        while not self._stopping.is_set():
            now = time.monotonic()
            self._crashes.append(now)
            while now - self._crashes[0] > policy.window_seconds:
                self._crashes.popleft()
            self._update(phase=Phase.RESTARTING, restarts=self.state.restarts + 1, last_fault=fault)
            backoff = min(policy.first_backoff_seconds * 2 ** (len(self._crashes) - 1), policy.max_backoff_seconds)
            self._log.warning("replica %s: %s; restarting it in %.1f s", self.state.name, fault, backoff)
            if self._server:
                # It has exited, or may not react even to SIGTERM.
                self._server.kill()
                self._server = None
                self._update(server_pid=None)
            if self._stopping.wait(backoff):
                return
            try:
                self._start_server()
            except Exception as error:
                fault = describe(error)
            else:
                return

    def _update(self, **changes: object) -> None:
        state = replace(self.state, **changes)  # type: ignore[arg-type]
        if state != self.state:
            self.state = state
            self._changed()


def _not_loaded(client: OperatorClient, server: TritonServer, models: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Models that the server failed to load, with the reason; some reasons are only in its log."""
    index = client.index(deadline_seconds=10.0)
    ready = {entry.model for entry in index if entry.state == "READY"}
    reasons = {entry.model: entry.reason for entry in index if entry.reason}
    return {
        name: (f"not loaded: {reasons.get(name) or ' '.join(server.errors_about(name)[-1:]) or 'see its log'}",)
        for name in models
        if name not in ready
    }
