"""Looks at one tritonserver, again and again: is it there, do its models answer rightly, is it to be healed."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trireme.agent.metrics import AgentMetrics
from trireme.agent.report import AgentReport, AgentState
from trireme.errors import TriremeError
from trireme.golden import GoldenSample, load_golden
from trireme.health import HealthPolicy, HealthWatch
from trireme.loading import variants_not_loaded
from trireme.model_config import load_model_config
from trireme.repository import ModelRepository
from trireme.stubs import StubWatch
from trireme.triton_client import TritonClient

_LOG = logging.getLogger(__name__)

# A canary never makes a replica red: it has a gate of its own.
CANARY_SUFFIX = "__canary"


@dataclass(frozen=True, slots=True)
class AgentPolicy:
    """How often to look, and how long to wait.

    Attributes:
        interval_seconds: between two looks; each asks one required model and one other.
        live_deadline_seconds: for the server's word that it lives. Missed once the replica is unready, missed twice in
            a row the server is dead.
        drain_seconds: red before the end, so that every proxy has seen it.
    """

    interval_seconds: float = 1.0
    live_deadline_seconds: float = 2.0
    drain_seconds: float = 2.5
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
        """``server_pid_path``: a file with the server's pid, where its processes can be seen from here."""
        self.report = AgentReport()
        self._client = client
        self._repository = repository
        self._metrics = metrics
        self._policy = policy
        self._server_pid_path = server_pid_path
        self._health: HealthWatch | None = None
        self._required: Sequence[str] = ()
        self._silences = 0
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
        while not self._stopped.is_set():
            try:
                self._look()
            except TriremeError as error:
                # The server went away between two calls: the next look finds out.
                _LOG.warning("%s", error)
            self._stopped.wait(self._policy.interval_seconds)

    def _look(self) -> None:
        if not self._client.is_live(self._policy.live_deadline_seconds):
            self._missed()
            return
        self._silences = 0
        if self._health is None or self.report.state is AgentState.DEAD:
            self._health = self._prove()
        if self._health is None:
            return
        if fault := self._health.look():
            self._tell(state=AgentState.DEAD, fault=fault.reason)
            return
        self._tell_health(self._health)

    def _missed(self) -> None:
        self._silences += 1
        if self.report.state is AgentState.STARTING:
            return
        dead = self._silences > 1
        fault = f"tritonserver has not said within {self._policy.live_deadline_seconds:g} s that it lives"
        self._tell(state=AgentState.DEAD if dead else AgentState.UNREADY, fault=f"{fault}, twice" if dead else "")

    def _prove(self) -> HealthWatch | None:
        """Ask every golden sample of every model, once the server says that it is ready; None while it is not."""
        self._tell(state=AgentState.STARTING, fault="")
        health = self._policy.health
        if not self._client.is_ready(self._policy.live_deadline_seconds):
            return None
        loaded = [entry.model for entry in self._client.index(health.probe_deadline_seconds) if entry.state == "READY"]
        samples = self._samples(sorted(set(loaded)))
        self._required = self._routes(samples) or list(samples)
        _LOG.info("asking the golden samples of %d models", len(samples))
        watch = HealthWatch(self._client, self._repository, samples, health, self._stubs(), required=self._required)
        watch.prove_all()
        for problem in (f"{model}: {found[0]}" for model, found in watch.problems.items() if found):
            _LOG.warning("%s", problem)
        return watch

    def _stubs(self) -> StubWatch | None:
        try:
            return StubWatch(int(self._server_pid_path.read_text())) if self._server_pid_path else None
        except (OSError, ValueError):
            return None

    def _samples(self, loaded: Sequence[str]) -> Mapping[str, Sequence[GoldenSample]]:
        samples: dict[str, Sequence[GoldenSample]] = {}
        for name in loaded:
            if name.endswith(CANARY_SUFFIX):
                continue
            folder = self._repository.model(name)
            if lacking := variants_not_loaded(folder, loaded):
                # Its samples ask for these, and a fallback's answer would be another than the golden one.
                _LOG.warning("golden samples of %s are not asked: it lacks %s", name, ", ".join(lacking))
            elif found := load_golden(folder):
                samples[name] = found
        return samples

    def _routes(self, samples: Mapping[str, Sequence[GoldenSample]]) -> list[str]:
        """What callers ask: the routes. A variant that fails behind one is the router's business."""
        return [
            name for name in samples if load_model_config(self._repository.model(name).config_path).backend == "router"
        ]

    def _tell_health(self, health: HealthWatch) -> None:
        well = not any(health.problems.get(model) for model in self._required)
        self._tell(
            state=AgentState.READY if well else AgentState.UNREADY,
            problems=dict(health.problems),
            heals=health.heals,
            last_heal=health.last_heal,
            fault="",
        )

    def _tell(self, **changes: object) -> None:
        with self._lock:
            before = self.report
            if before.state is AgentState.DRAINING:
                changes["state"] = AgentState.DRAINING
            self.report = replace(before, **changes)  # type: ignore[arg-type]
        if self.report.state is not before.state:
            _LOG.info("%s, was %s %s", self.report.state.value, before.state.value, self.report.fault)
        self._metrics.tell(self.report)
