"""Prometheus metrics of an agent."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from trireme.agent.process import AgentReport, AgentState


class AgentMetrics:
    """The agent's ``/metrics``; the names are documented in ``docs/observability.md``."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._ready = Gauge("trireme_agent_ready", "1 while the replica is ready", registry=self._registry)
        self._state = Gauge(
            "trireme_agent_state", "1 for the current state of the replica", ["state"], registry=self._registry
        )
        self._probes = Counter(
            "trireme_agent_probes",
            "Golden samples sent, by outcome: right, wrong, error, busy, timeout",
            ["model", "outcome"],
            registry=self._registry,
        )
        self._probe_seconds = Histogram(
            "trireme_agent_probe_seconds", "Response time of golden samples", ["model"], registry=self._registry
        )
        self._heals = Counter(
            "trireme_agent_heals",
            "Models reloaded, by reason: process_died, unhealthy, silent",
            ["model", "reason"],
            registry=self._registry,
        )
        self._out = Gauge(
            "trireme_agent_model_out",
            "1 for a model that is out of service: not loaded, failing, or being healed",
            ["model"],
            registry=self._registry,
        )
        self._failed_checks = Counter(
            "trireme_agent_failed_looks",
            "Checks of the server that failed in the agent",
            registry=self._registry,
        )
        self.show(AgentReport(AgentState.STARTING, {}, ()))

    def show(self, report: AgentReport) -> None:
        self._ready.set(report.state is AgentState.READY)
        for state in AgentState:
            self._state.labels(state.value).set(report.state is state)
        self._out.clear()
        for model in report.out:
            self._out.labels(model).set(1)

    def probed(self, model: str, outcome: str, seconds: float) -> None:
        self._probes.labels(model, outcome).inc()
        self._probe_seconds.labels(model).observe(seconds)

    def check_failed(self) -> None:
        self._failed_checks.inc()

    def healed(self, model: str, reason: str) -> None:
        self._heals.labels(model, reason).inc()

    def text(self) -> bytes:
        return generate_latest(self._registry)
