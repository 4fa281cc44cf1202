"""What an agent counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from trireme.agent.report import AgentReport, AgentState


class AgentMetrics:
    """The agent's ``/metrics``; the names are documented in ``docs/observability.md``."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._ready = Gauge("trireme_agent_ready", "1 while the replica may get requests", registry=self._registry)
        self._state = Gauge(
            "trireme_agent_state", "1 for the state the replica is in", ["state"], registry=self._registry
        )
        self._wrong = Gauge(
            "trireme_agent_model_wrong",
            "1 while a model's last golden sample was not answered rightly",
            ["model"],
            registry=self._registry,
        )
        self._heals = Counter(
            "trireme_agent_heals", "Models loaded anew because their process was gone", registry=self._registry
        )
        self._heals_told = 0

    def tell(self, report: AgentReport) -> None:
        self._ready.set(report.state is AgentState.READY)
        for state in AgentState:
            self._state.labels(state.value).set(report.state is state)
        for model, problems in report.problems.items():
            self._wrong.labels(model).set(bool(problems))
        # A watch that was made anew counts from 0.
        self._heals.inc(max(report.heals - self._heals_told, 0))
        self._heals_told = report.heals

    def text(self) -> bytes:
        return generate_latest(self._registry)
