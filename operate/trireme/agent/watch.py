"""Looks at one tritonserver, again and again: is it there, do its models answer rightly, is it to be healed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from trireme.agent.metrics import AgentMetrics
from trireme.agent.report import AgentReport, AgentState
from trireme.agent.samples import Samples, find_samples, only_canaries_ask
from trireme.errors import ServerError, TriremeError
from trireme.health import HealthPolicy, HealthWatch
from trireme.repository import ModelRepository
from trireme.stubs import Stub, StubWatch
from trireme.triton_client import TritonClient, UnreachableError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """How often to look, and how long to wait.

    Attributes:
        interval_seconds: between two looks; each asks one required model and one other.
        live_deadline_seconds: for the server's word that it lives. One that misses it is unready.
        misses: so many in a row, and the server is frozen.
    """

    interval_seconds: float = 1.0
    live_deadline_seconds: float = 2.0
    misses: int = 3
    health: HealthPolicy = field(default_factory=HealthPolicy)


class AgentWatch:
    """The looking thread, and what it has found.

    Example:
        >>> watch = AgentWatch(client, repository, metrics, AgentPolicy())
        >>> watch.start()
        >>> watch.report.state
        <AgentState.STARTING: 'starting'>
    """

    def __init__(
        self,
        client: TritonClient,
        repository: ModelRepository,
        metrics: AgentMetrics,
        policy: AgentPolicy,
        server_pid_path: Path | None = None,
    ) -> None:
        """``server_pid_path``: a file with the server's pid, where its processes can be seen from here.

        It is written when the server is loaded; until then the state is ``STARTING``.
        """
        self.report = AgentReport()
        self._client = client
        self._repository = repository
        self._metrics = metrics
        self._policy = policy
        self._server_pid_path = server_pid_path
        self._health: HealthWatch | None = None
        self._samples = Samples({}, frozenset(), {})
        self._misses = 0
        self._stubs: StubWatch | None = None
        # Of servers that are gone.
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
        """Be red from now on, for good."""
        self._tell(state=AgentState.DRAINING)

    def _run(self) -> None:
        while not self._stopped.is_set() and self.report.state is not AgentState.DRAINING:
            try:
                self._look()
            except TriremeError as error:
                # The server went away between two calls: the next look finds out.
                _LOG.warning("%s", error)
            self._stopped.wait(self._policy.interval_seconds)

    def _look(self) -> None:
        pid = self._read_server_pid()
        if pid != self.report.server_pid:
            # Another server: nothing that was found of the last one is true of it.
            self._stubs = StubWatch(pid) if pid else None
            self._start_over(server_pid=pid)
        if pid is None and self._server_pid_path:
            # Who starts the server says so when it is loaded; what answers until then may be the one before it.
            return
        try:
            self._client.server_version(self._policy.live_deadline_seconds)
        except UnreachableError:
            # Who started it sees that too, and will start another: there is nothing to end.
            self._start_over()
            return
        except ServerError as error:
            self._missed(str(error))
            return
        self._misses = 0
        if self.report.state is AgentState.DEAD:
            self._recover()
        elif self._health is None or self._has_loaded_more():
            self._health = self._prove()
            self._tell_health()
        elif fault := self._health.look():
            self._tell(state=AgentState.DEAD, fault=fault.reason)
        else:
            self._tell_health()

    def _missed(self, error: str) -> None:
        self._misses += 1
        if self._misses >= self._policy.misses:
            seconds = self._misses * self._policy.live_deadline_seconds
            self._tell(state=AgentState.DEAD, fault=f"tritonserver is frozen: it said nothing for {seconds:g} s")
        elif self.report.state is AgentState.READY:
            _LOG.warning("%s", error)
            self._tell(state=AgentState.UNREADY)

    def _recover(self) -> None:
        """A server called dead says that it lives: it stays dead until all is right again."""
        health = self._prove()
        if not self._samples.missing and not any(health.problems.values()):
            self._health = health
            self._tell_health()

    def _start_over(self, **changes: object) -> None:
        self._health = None
        self._misses = 0
        self._tell(state=AgentState.STARTING, problems={}, fault="", **changes)

    def _has_loaded_more(self) -> bool:
        """Whether the server has loaded a model that it lacked."""
        if not self._samples.missing:
            return False
        index = self._client.index(self._policy.health.probe_deadline_seconds)
        return any(entry.state == "READY" and entry.model in self._samples.missing for entry in index)

    def _prove(self) -> HealthWatch:
        """Ask every golden sample of every model."""
        self._heals_before = self.report.heals
        health = self._policy.health
        self._samples = found = find_samples(self._client, self._repository, health.probe_deadline_seconds)
        _LOG.info("asking the golden samples of %d models", len(found.of))
        watch = HealthWatch(
            self._client,
            self._repository,
            found.of,
            health,
            self._find_dead_stubs,
            required=found.required,
            observer=self._metrics,
            before_heal=lambda: self._tell(state=AgentState.HEALING),
            only_canaries_ask=partial(only_canaries_ask, self._repository),
        )
        watch.prove_all()
        for problem in (f"{model}: {wrong[0]}" for model, wrong in watch.problems.items() if wrong):
            _LOG.warning("%s", problem)
        return watch

    def _find_dead_stubs(self) -> list[Stub]:
        return self._stubs.find_dead() if self._stubs else []

    def _read_server_pid(self) -> int | None:
        try:
            return int(self._server_pid_path.read_text()) if self._server_pid_path else None
        except (OSError, ValueError):
            return None

    def _tell_health(self) -> None:
        assert self._health is not None
        problems = self._problems(self._health)
        well = not any(problems.get(model) for model in self._samples.required)
        self._tell(
            state=AgentState.READY if well else AgentState.UNREADY,
            problems=problems,
            heals=self._heals_before + self._health.heals,
            last_heal=self._health.last_heal or self.report.last_heal,
            fault="",
        )

    def _problems(self, health: HealthWatch) -> Mapping[str, tuple[str, ...]]:
        missing = {model: (f"not loaded: {reason}",) for model, reason in self._samples.missing.items()}
        return {**health.problems, **missing}

    def _tell(self, **changes: object) -> None:
        with self._lock:
            before = self.report
            if before.state is AgentState.DRAINING:
                changes["state"] = AgentState.DRAINING
            self.report = replace(before, **changes)  # type: ignore[arg-type]
        if self.report.state is not before.state:
            _LOG.info("%s, was %s %s", self.report.state.value, before.state.value, self.report.fault)
        self._metrics.tell(self.report)
