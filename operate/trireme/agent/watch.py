"""Periodic checks of one tritonserver: liveness, correct responses of its models, healing."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from trireme_backends.routing.route import CANARY_SUFFIX
from trireme_client import DeadlineError, OperatorClient, UnreachableError

from trireme.agent.health import HealthPolicy, HealthWatch
from trireme.agent.metrics import AgentMetrics
from trireme.agent.process import AgentReport, AgentState
from trireme.agent.samples import ProbeSamples, find_samples, only_canaries_call
from trireme.errors import describe
from trireme.processes.server_metrics import generated
from trireme.processes.stubs import Stub, StubWatch
from trireme.repository.folders import ModelRepository

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """Intervals and deadlines.

    Attributes:
        interval_seconds: between checks; each checks one route and one other model.
        live_deadline_seconds: for the liveness call. A server that misses it is unready.
        misses: consecutive misses after which the server counts as frozen.
    """

    interval_seconds: float = 1.0
    live_deadline_seconds: float = 2.0
    misses: int = 3
    health: HealthPolicy = field(default_factory=HealthPolicy)


class AgentWatch:
    """The thread that checks the server, and its report.

    Example:
        >>> watch = AgentWatch(client, "127.0.0.1:8002", repository, metrics, AgentPolicy())
        >>> watch.start()
        >>> watch.report.state
        <AgentState.STARTING: 'starting'>
    """

    def __init__(
        self,
        client: OperatorClient,
        metrics_address: str,
        repository: ModelRepository,
        metrics: AgentMetrics,
        policy: AgentPolicy,
        server_pid_path: Path | None = None,
    ) -> None:
        """
        Args:
            metrics_address: of the server, for the progress of its language models.
            server_pid_path: a file with the server's pid, if its processes are visible. It is written when the server
                has loaded its models; until then the state is ``STARTING``.
        """
        self.report = AgentReport(AgentState.STARTING, {}, ())
        self._client = client
        self._metrics_address = metrics_address
        self._repository = repository
        self._metrics = metrics
        self._policy = policy
        self._server_pid_path = server_pid_path
        self._health: HealthWatch | None = None
        self._samples = ProbeSamples()
        self._ready: frozenset[str] = frozenset()
        self._misses = 0
        self._stubs: StubWatch | None = None
        # Of previous servers.
        self._heals_before = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agent-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(timeout=self._policy.health.proof_deadline_seconds)

    def drain(self) -> None:
        """Report DRAINING from now on, permanently."""
        self._update_report(state=AgentState.DRAINING)

    def _run(self) -> None:
        while not self._stopped.is_set() and self.report.state is not AgentState.DRAINING:
            error = ""
            try:
                self._check_server()
            except Exception as failure:
                # The last verdict holds, and the next check may succeed.
                error = describe(failure)
                self._metrics.check_failed()
                if error != self.report.error:
                    _LOG.error("%s", error)
            if error != self.report.error:
                self._update_report(error=error)
            self._stopped.wait(self._policy.interval_seconds)

    def _check_server(self) -> None:
        pid = self._read_server_pid()
        if pid != self.report.server_pid:
            # Another server: the findings about the previous one are obsolete.
            self._stubs = StubWatch(pid) if pid else None
            self._start_over(server_pid=pid)
        if pid is None and self._server_pid_path:
            # The pid file is written when the server has loaded its models; until then its predecessor may respond.
            return
        try:
            self._client.server_version(self._policy.live_deadline_seconds)
        except UnreachableError:
            # The process that started the server detects its exit and restarts it.
            self._start_over()
            return
        except DeadlineError as error:
            self._missed(str(error))
            return
        self._misses = 0
        try:
            self._check_models()
        except UnreachableError as error:
            # The server exited between two calls, which the next check detects.
            _LOG.warning("%s", error)
        except DeadlineError as error:
            self._missed(str(error))

    def _check_models(self) -> None:
        index = self._client.index(self._policy.health.probe_deadline_seconds)
        ready = frozenset(entry.model for entry in index if entry.state == "READY")
        ready = frozenset(model for model in ready if not model.endswith(CANARY_SUFFIX))
        if self.report.state is AgentState.DEAD:
            # The server responds again: earlier findings are obsolete.
            self._health = None
        if self._health and ready == self._ready:
            self._health.check()
        else:
            health = self._health or self._make_health()
            samples = find_samples(self._client, self._repository, self._policy.health.probe_deadline_seconds)
            _LOG.info("%d models are loaded, %d have golden samples", len(ready), len(samples.of))
            health.use_samples(samples)
            self._health, self._samples, self._ready = health, samples, ready
            for problem in (f"{model}: {problems[0]}" for model, problems in health.problems.items() if problems):
                _LOG.warning("%s", problem)
        self._report_health()

    def _missed(self, error: str) -> None:
        self._misses += 1
        if self._misses >= self._policy.misses:
            seconds = self._misses * self._policy.live_deadline_seconds
            self._update_report(state=AgentState.DEAD, fault=f"tritonserver is frozen: no response for {seconds:g} s")
        elif self.report.state is AgentState.READY:
            _LOG.warning("%s", error)
            self._update_report(state=AgentState.UNREADY, fault=error)

    def _start_over(self, **changes: object) -> None:
        self._health = None
        self._misses = 0
        self._update_report(state=AgentState.STARTING, problems={}, out=(), fault="", **changes)

    def _make_health(self) -> HealthWatch:
        self._heals_before = self.report.heals
        return HealthWatch(
            self._client,
            self._repository,
            self._policy.health,
            self._find_dead_stubs,
            observer=self._metrics,
            generated=partial(generated, self._metrics_address),
            out_changed=self._report_health,
            only_canaries_call=partial(only_canaries_call, self._repository),
        )

    def _find_dead_stubs(self) -> list[Stub]:
        return self._stubs.find_dead() if self._stubs else []

    def _read_server_pid(self) -> int | None:
        try:
            return int(self._server_pid_path.read_text()) if self._server_pid_path else None
        except (OSError, ValueError):
            return None

    def _report_health(self) -> bool:
        """Update the report; return whether the replica became not ready."""
        assert self._health is not None
        was_ready = self.report.state is AgentState.READY
        missing = {model: (f"not loaded: {reason}",) for model, reason in self._samples.missing.items()}
        reason = self._samples.unready_reason(self._health.out, self._health.failing)
        self._update_report(
            state=AgentState.UNREADY if reason else AgentState.READY,
            problems={**self._health.problems, **missing},
            out=tuple(sorted({*self._health.out, *self._health.failing, *missing})),
            heals=self._heals_before + self._health.heals,
            last_heal=self._health.last_heal or self.report.last_heal,
            fault=reason,
        )
        return was_ready and bool(reason)

    def _update_report(self, **changes: object) -> None:
        with self._lock:
            before = self.report
            if before.state is AgentState.DRAINING:
                changes["state"] = AgentState.DRAINING
            self.report = replace(before, **changes)  # type: ignore[arg-type]
        if self.report.state is not before.state:
            _LOG.info("%s -> %s; fault: %s", before.state.value, self.report.state.value, self.report.fault or "none")
        self._metrics.show(self.report)
