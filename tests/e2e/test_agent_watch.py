"""How the agent handles models that fail, hang or are busy: its watch in this process, with a real server."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from trireme.agent.health import HealthPolicy
from trireme.agent.metrics import AgentMetrics
from trireme.agent.process import AgentReport, AgentState
from trireme.agent.watch import AgentPolicy, AgentWatch
from trireme.processes.server import ServerFlags, TritonServer
from trireme.processes.stubs import stub_processes
from trireme.repository.folders import ModelRepository
from trireme_client import OperatorClient
from trireme_client.operator import VersionState

from tests.e2e.serving import MODELS, wait_until

HEALTH = HealthPolicy(
    probe_deadline_seconds=2.0,
    silent_stream_seconds=4.0,
    first_backoff_seconds=0.2,
    max_backoff_seconds=0.5,
    notice_seconds=0.0,
)


class Watched:
    """A server with an agent's watch; the models are ``echo``, ``writer`` and two that are never probed."""

    def __init__(self, directory: Path) -> None:
        self.repository = directory / "models"
        shutil.copytree(MODELS / "echo", self.repository / "echo")
        shutil.copytree(Path(__file__).parent / "agent_models" / "writer", self.repository / "writer")
        for name in ("unprobed", "broken"):
            shutil.copytree(MODELS / "echo", self.repository / name)
        shutil.rmtree(self.repository / "unprobed" / "golden")
        (self.repository / "broken" / "golden" / "hello.json").write_text('{"request": {"inputs": 7}, "response": {}}')
        self.server = TritonServer.start(ServerFlags(self.repository, admin_key="key"), directory=directory / "server")
        self._pid_path = directory / "server.pid"
        self._pid_path.write_text(str(self.server.pid))
        self.metrics = AgentMetrics()
        self.client = OperatorClient(self.server.grpc_address, "key")
        self.watch = self.start_watch(self.client)
        self.states: list[AgentState] = []

    def start_watch(self, client: OperatorClient, metrics: AgentMetrics | None = None) -> AgentWatch:
        watch = AgentWatch(
            client,
            self.server.metrics_address,
            ModelRepository(self.repository),
            metrics or self.metrics,
            AgentPolicy(interval_seconds=0.05, health=HEALTH),
            self._pid_path,
        )
        watch.start()
        return watch

    @property
    def report(self) -> AgentReport:
        report = self.watch.report
        self.states.append(report.state)
        return report

    def wait_for(self, condition: Callable[[AgentReport], bool], what: str) -> None:
        try:
            wait_until(lambda: condition(self.report), what)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.watch.report}") from None

    def behave(self, behaviour: str) -> None:
        (self.repository / "behaviour").write_text(behaviour)

    def probes(self, model: str, outcome: str) -> float:
        start = f'trireme_agent_probes_total{{model="{model}",outcome="{outcome}"}} '
        found = [line for line in self.metrics.text().decode().splitlines() if line.startswith(start)]
        return float(found[0].removeprefix(start)) if found else 0.0

    def close(self) -> None:
        self.watch.stop()
        self.client.close()
        self.server.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    made = Watched(tmp_path_factory.mktemp("watched"))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def watched(running: Watched) -> Watched:
    """Ready before and after each test."""
    running.wait_for(lambda report: report.state is AgentState.READY and not report.out, "everything is healthy")
    running.states.clear()
    return running


def test_an_invalid_golden_sample_is_only_a_problem_of_its_model(watched: Watched) -> None:
    (problem,) = watched.report.problems["broken"]
    assert problem.startswith(f"{watched.repository}/broken/golden/hello.json: request.inputs")
    assert watched.report.problems["echo"] == ()


def test_a_model_that_cannot_be_healed_is_out_and_the_replica_stays_ready(watched: Watched) -> None:
    model, away = watched.repository / "echo" / "1" / "model.py", watched.repository / "model.py.away"
    model.rename(away)
    (stub,) = [stub for stub in stub_processes(watched.server.pid) if str(model) in stub.cmdline()]
    stub.kill()
    watched.wait_for(lambda report: "did not help" in "".join(report.problems["echo"]), "healing failed")
    assert watched.report.out == ("echo",)
    assert f"{model} is missing; restore it" in watched.report.problems["echo"][0]
    assert 'trireme_agent_model_out{model="echo"} 1.0' in watched.metrics.text().decode()
    away.rename(model)
    watched.wait_for(lambda report: not report.out, "it is healed")
    assert watched.report.problems["echo"] == ()
    assert set(watched.states) == {AgentState.READY}


def test_a_busy_language_model_is_not_reloaded(watched: Watched) -> None:
    heals, unanswered = watched.report.heals, watched.probes("writer", "timeout")
    watched.behave("busy")
    # Longer than the limit for silent models.
    enough = unanswered + 1 + HEALTH.silent_stream_seconds / HEALTH.probe_deadline_seconds
    watched.wait_for(lambda _: watched.probes("writer", "timeout") > enough, "probes timed out")
    watched.behave("")
    right = watched.probes("writer", "right")
    watched.wait_for(lambda _: watched.probes("writer", "right") > right, "it responded")
    assert watched.report.heals == heals
    assert set(watched.states) == {AgentState.READY}


def test_a_language_model_that_hangs_is_reloaded(watched: Watched) -> None:
    heals = watched.report.heals
    watched.behave("hang")
    watched.wait_for(lambda report: "writer" in report.out, "it is out of service")
    watched.behave("")
    watched.wait_for(lambda report: not report.out, "it is healed")
    assert watched.report.heals > heals
    assert "model writer did not respond" in watched.report.last_heal
    assert set(watched.states) == {AgentState.READY}


def test_a_replica_whose_models_are_all_unloaded_is_not_ready(watched: Watched) -> None:
    models = ("broken", "echo", "writer")
    for model in models:
        watched.client.unload(model, 30.0)
    # A model without golden samples remains.
    watched.wait_for(lambda report: report.out == models, "it is detected")
    assert watched.report.state is AgentState.READY
    watched.client.unload("unprobed", 30.0)
    watched.wait_for(lambda report: report.state is AgentState.UNREADY, "it is not ready")
    assert watched.report.fault == "no model is ready"
    for model in (*models, "unprobed"):
        watched.client.load(model, 30.0)


class Failing(OperatorClient):
    """Raises an unexpected exception as long as requested."""

    fails, looks = True, 0

    def index(self, deadline_seconds: float) -> list[VersionState]:
        self.looks += 1
        if self.fails:
            raise ZeroDivisionError("unexpected")
        return super().index(deadline_seconds)


def test_an_error_of_the_server_is_reported(watched: Watched) -> None:
    with OperatorClient(watched.server.grpc_address, "another key") as client:
        watch = watched.start_watch(client, AgentMetrics())
        try:
            wait_until(lambda: "restricted" in watch.report.error, "it is reported")
            assert watch.report.state is AgentState.STARTING
        finally:
            watch.stop()


def test_any_failure_of_a_check_is_reported_and_the_watch_continues(watched: Watched) -> None:
    metrics = AgentMetrics()
    with Failing(watched.server.grpc_address, "key") as client:
        watch = watched.start_watch(client, metrics)
        try:
            wait_until(lambda: client.looks > 2, "it checked again")
            assert "trireme_agent_failed_looks_total" in metrics.text().decode()
            assert watch.report.error.startswith("unexpected ZeroDivisionError at test_agent_watch.py:")
            client.fails = False
            wait_until(lambda: watch.report.state is AgentState.READY, "it is ready")
            assert watch.report.error == ""
        finally:
            watch.stop()
