"""The readiness agent as a sidecar: it can access the server's ports and a read-only repository, but no processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trireme.agent.process import AgentFlags
from trireme.processes.admin_key import ensure_admin_key
from trireme.processes.ports import free_ports
from trireme.processes.server import ServerFlags, TritonServer
from trireme.processes.stubs import stub_processes
from trireme.processes.supervised import ChildProcess
from trireme_client import OperatorClient

from tests.deadlines import scaled
from tests.e2e.serving import MODELS, wait_until
from tests.e2e.test_router.conftest import EchoRepository


class Sidecar:
    """A server that can be stopped and restarted, and its agent."""

    def __init__(self, directory: Path, repository: Path) -> None:
        self.repository = repository
        grpc, http, metrics, agent = free_ports(4)
        key_path = directory / "admin.key"
        self._directory = directory
        self._flags = ServerFlags(
            repository, ("*",), grpc, http, metrics, admin_key=ensure_admin_key(key_path), exit_on_error=False
        )
        self._agent_flags = AgentFlags(
            "r0", "a", f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}", f"127.0.0.1:{agent}", key_path
        )
        self.server: TritonServer | None = None
        self.agent: ChildProcess | None = None

    def start_agent(self) -> None:
        # In a separate mount namespace with a read-only repository.
        command = [sys.executable, "-m", "trireme.cli", "agent", *self._agent_flags.arguments()]
        read_only = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
        self.agent = ChildProcess.start(
            ["unshare", "--mount", "--map-root-user", "sh", "-c", read_only, str(self.repository), *command],
            self._directory / "agent.log",
            {"TRIREME_REPOSITORY_DIR": str(self.repository)},
        )

    def start_server(self) -> None:
        self.server = TritonServer.start(self._flags, directory=self._directory / "server")

    def end_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        self.server = None

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        request = urllib.request.Request(f"http://{self._agent_flags.listen}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=scaled(10.0)) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, "{}"

    def report(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.get("/readyz")[1])
        return body

    def wait_for(self, state: str) -> None:
        try:
            wait_until(lambda: self.report().get("state") == state, f"the agent reports {state}")
        except AssertionError as error:
            raise AssertionError(f"{error}; report: {self.report()}; log: {self.log()}") from None

    def log(self) -> str:
        return (self._directory / "agent.log").read_text()

    def client(self) -> OperatorClient:
        return OperatorClient(self._agent_flags.grpc_address, self._flags.admin_key)

    def close(self) -> None:
        if self.agent:
            self.agent.kill()
        if self.server:
            self.server.kill()


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """Ready before and after each test."""
    directory = tmp_path_factory.mktemp("agent")
    shutil.copytree(MODELS, directory / "models")
    made = Sidecar(directory, directory / "models")
    try:
        made.start_agent()
        made.wait_for("starting")
        assert (made.get("/readyz")[0], made.get("/livez")[0]) == (503, 200)
        made.start_server()
        made.wait_for("ready")
        yield made
    finally:
        made.close()


def test_ready_returns_200_with_each_model(sidecar: Sidecar) -> None:
    assert (sidecar.get("/readyz")[0], sidecar.get("/livez")[0]) == (200, 200)
    assert sidecar.report()["problems"] == {"echo": []}


def test_the_agent_waits_for_an_exited_server(sidecar: Sidecar) -> None:
    sidecar.end_server()
    sidecar.wait_for("starting")
    assert (sidecar.get("/readyz")[0], sidecar.get("/livez")[0]) == (503, 200)
    sidecar.start_server()
    sidecar.wait_for("ready")


def test_a_frozen_server_is_dead_until_it_responds(sidecar: Sidecar) -> None:
    assert sidecar.server is not None
    sidecar.server.process.send_signal(signal.SIGSTOP)
    sidecar.wait_for("dead")
    assert (sidecar.get("/readyz")[0], sidecar.get("/livez")[0]) == (503, 503)
    assert "frozen" in sidecar.report()["fault"]
    sidecar.server.process.send_signal(signal.SIGCONT)
    sidecar.wait_for("ready")
    assert sidecar.get("/livez")[0] == 200


def test_the_agent_waits_for_a_frozen_server_that_is_killed(sidecar: Sidecar) -> None:
    assert sidecar.server is not None
    sidecar.server.process.send_signal(signal.SIGSTOP)
    sidecar.wait_for("dead")
    sidecar.end_server()
    sidecar.wait_for("starting")
    sidecar.start_server()
    sidecar.wait_for("ready")


def test_a_model_whose_process_died_is_reloaded(sidecar: Sidecar) -> None:
    assert sidecar.server is not None
    (stub,) = stub_processes(sidecar.server.pid)
    heals = sidecar.report()["heals"]
    stub.kill()
    wait_until(lambda: sidecar.report()["heals"] == heals + 1, "it is healed")
    sidecar.wait_for("ready")
    # It was the only model.
    assert '"ready -> unready; fault: no model is ready"' in sidecar.log()
    assert 'trireme_agent_heals_total{model="echo",reason=' in sidecar.get("/metrics")[1]
    assert sidecar.server.is_alive()


def test_a_missing_model_makes_it_unready_until_it_is_loaded(sidecar: Sidecar) -> None:
    with sidecar.client() as client:
        client.unload("echo", 30.0)
        sidecar.wait_for("unready")
        assert sidecar.get("/livez")[0] == 200
        client.load("echo", 30.0)
    sidecar.wait_for("ready")


def test_metrics_report_the_state(sidecar: Sidecar) -> None:
    text = sidecar.get("/metrics")[1]
    assert "trireme_agent_ready 1.0" in text
    assert 'trireme_agent_state{state="ready"} 1.0' in text
    assert 'trireme_agent_state{state="dead"} 0.0' in text
    assert 'trireme_agent_probes_total{model="echo",outcome="right"}' in text


def test_sigterm_makes_it_unready_then_exits(sidecar: Sidecar) -> None:
    assert sidecar.agent is not None
    sidecar.agent.process.send_signal(signal.SIGTERM)
    sidecar.wait_for("draining")
    assert (sidecar.get("/readyz")[0], sidecar.get("/livez")[0]) == (503, 200)
    assert sidecar.agent.process.wait(timeout=scaled(60.0)) == 0
    sidecar.start_agent()
    sidecar.wait_for("ready")


def test_a_drained_agent_stays_unready(sidecar: Sidecar) -> None:
    assert sidecar.agent is not None
    assert sidecar.get("/drain", "POST")[0] == 200
    sidecar.wait_for("draining")
    with sidecar.client() as client:
        client.load("echo", 30.0)
    assert sidecar.report()["state"] == "draining"
    sidecar.agent.kill()
    sidecar.start_agent()
    sidecar.wait_for("ready")


@pytest.fixture(scope="module")
def routed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A route with a golden sample over three variants that have samples as well."""
    directory = tmp_path_factory.mktemp("routed")
    (directory / "models").mkdir()
    EchoRepository(directory / "models")
    made = Sidecar(directory, directory / "models")
    for model in ("echo", "small_worker"):
        add_sample(made.repository / model)
    try:
        made.start_agent()
        made.start_server()
        made.wait_for("ready")
        yield made
    finally:
        made.close()


def add_sample(model: Path) -> None:
    text = {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["hello"]}
    (model / "golden").mkdir()
    # No outputs to compare: any response is correct.
    document = {"request": {"inputs": [text]}, "response": {"outputs": []}}
    (model / "golden" / "hello.json").write_text(json.dumps(document))


def test_a_variant_that_fails_behind_a_route_is_reported_and_leaves_the_replica_ready(routed: Sidecar) -> None:
    with routed.client() as client:
        client.unload("small_worker", 30.0)
        wait_until(lambda: bool(routed.report()["problems"]["small_worker"]), "the agent reports it")
        assert routed.report()["state"] == "ready"
        client.load("small_worker", 30.0)
        wait_until(lambda: not routed.report()["problems"]["small_worker"], "it is healthy again")


def test_a_canary_that_does_not_load_leaves_the_replica_ready(routed: Sidecar) -> None:
    canary = routed.repository / "small__canary"
    shutil.copytree(routed.repository / "small_worker", canary)
    (canary / "1" / "model.py").write_text("import no_such_library\n")
    seen = []
    with routed.client() as client, pytest.raises(Exception, match="no_such_library"):
        client.load("small__canary", 60.0)
    before = probes(routed)
    wait_until(lambda: seen.append(routed.report()["state"]) or probes(routed) > before + 2, "it checked again")
    shutil.rmtree(canary)
    assert set(seen) == {"ready"}


def probes(sidecar: Sidecar) -> float:
    lines = sidecar.get("/metrics")[1].splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("trireme_agent_probes_total"))


def test_a_missing_route_makes_it_unready(routed: Sidecar) -> None:
    with routed.client() as client:
        client.unload("echo", 30.0)
        routed.wait_for("unready")
        client.load("echo", 30.0)
    routed.wait_for("ready")


def test_an_address_without_a_port_is_a_usage_error() -> None:
    command = [sys.executable, "-m", "trireme.cli", "agent", "--replica=r0", "--listen=nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=scaled(60), check=False)
    assert done.returncode == 2
    assert "--listen" in done.stderr
    assert "Traceback" not in done.stderr
