"""Several replicas behind Envoy: callers do not notice failures of one of them."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from trireme.inference.text_request import text_tensor
from trireme.processes.ports import free_ports
from trireme_client import ClientError, OperatorClient
from trireme_loadtest.generate.traffic import ClientThreads

from tests.deadlines import scaled
from tests.e2e.serving import Serve, wait_until


@pytest.fixture(scope="module")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """Two replicas in two zones."""
    with Serve(tmp_path_factory.mktemp("fleet"), options=["--replicas=2", "--zones=a,b"]) as running:
        yield running


@contextlib.contextmanager
def no_request_fails(serve: Serve) -> Iterator[None]:
    with OperatorClient(serve.grpc_address) as client:
        calls = [lambda: client.infer("echo", {"TEXT": text_tensor(b"hello")}, 30.0)] * 2
        with ClientThreads(calls, pause_seconds=0.01) as callers:
            yield
            answered = len(callers.seconds)
            wait_until(lambda: len(callers.seconds) > answered + 20, "callers got responses")
    assert callers.failures == []


def replicas(serve: Serve) -> dict[str, dict[str, Any]]:
    return {replica["name"]: replica for replica in serve.state()["replicas"]}


def all_serve(serve: Serve) -> bool:
    return all(replica["phase"] == "serving" for replica in replicas(serve).values())


def test_replicas_are_distributed_over_the_zones(serve: Serve) -> None:
    assert {name: replica["zone"] for name, replica in replicas(serve).items()} == {"r0": "a", "r1": "b"}
    assert all_serve(serve)


def test_a_ready_replica_stays_ready(serve: Serve) -> None:
    time.sleep(3)
    logs = list(serve.state_dir.glob("**/agent.log"))
    assert [log.read_text().count("starting -> ready") for log in logs] == [1, 1]


def test_each_replica_receives_requests(serve: Serve) -> None:
    def succeeded(replica: dict[str, Any]) -> int:
        with OperatorClient(replica["grpc_address"]) as client:
            return sum(counts.succeeded for counts in client.statistics(10.0, "echo"))

    before = {name: succeeded(replica) for name, replica in replicas(serve).items()}
    with no_request_fails(serve):
        pass
    assert all(succeeded(replica) > before[name] for name, replica in replicas(serve).items())


@pytest.mark.parametrize("part", ["server_pid", "agent_pid"])
def test_callers_do_not_notice_a_killed_process_of_a_replica(serve: Serve, part: str) -> None:
    killed = replicas(serve)["r1"][part]
    with no_request_fails(serve):
        psutil.Process(killed).kill()
        wait_until(lambda: replicas(serve)["r1"][part] not in (killed, None) and all_serve(serve), "it serves again")


def test_replicas_that_exit_together_recover(serve: Serve) -> None:
    ended = [replica["server_pid"] for replica in replicas(serve).values()]
    for pid in ended:
        psutil.Process(pid).kill()
    wait_until(
        lambda: (
            all(replica["server_pid"] not in (*ended, None) for replica in replicas(serve).values())
            and all_serve(serve)
        ),
        "both serve again",
    )
    assert serve.ask(b"after both") == b"after both"


def test_an_agent_that_hangs_is_restarted(serve: Serve) -> None:
    hanging = replicas(serve)["r1"]["agent_pid"]
    with no_request_fails(serve):
        psutil.Process(hanging).suspend()
        wait_until(lambda: replicas(serve)["r1"]["agent_pid"] != hanging and all_serve(serve), "a new agent is running")
    assert not psutil.pid_exists(hanging)


def test_callers_do_not_notice_added_and_removed_replicas(serve: Serve) -> None:
    with no_request_fails(serve):
        more = serve.verb("scale", "3")
        assert more.returncode == 0, more.stderr
        assert more.stdout.strip() == "r0 in zone a, r1 in zone b, r2 in zone a"
        gone = psutil.Process(replicas(serve)["r2"]["server_pid"])
        fewer = serve.verb("scale", "2")
        assert fewer.returncode == 0, fewer.stderr
        assert sorted(replicas(serve)) == ["r0", "r1"]
        assert not gone.is_running()


def test_a_removed_replica_finishes_its_requests(serve: Serve, tmp_path: Path) -> None:
    assert serve.verb("scale", "3").returncode == 0
    held = [tmp_path / f"held-{number}" for number in range(3)]
    answers: list[bytes] = []
    # One per replica: Envoy sends a request to the replica with the fewest.
    asking = [threading.Thread(target=lambda q=path: answers.append(serve.ask(f"hold:{q}".encode()))) for path in held]
    for thread in asking:
        thread.start()
    wait_until(lambda: all(path.exists() for path in held), "the models execute the requests")
    assert serve.verb("scale", "2").returncode == 0
    for thread in asking:
        thread.join()
    assert len(answers) == len(held)


def test_callers_do_not_notice_the_restart_of_all_replicas(serve: Serve) -> None:
    before = replicas(serve)
    with no_request_fails(serve):
        done = serve.verb("restart")
        assert done.returncode == 0, done.stderr
    after = replicas(serve)
    assert {name: replica["zone"] for name, replica in after.items()} == {"r0": "a", "r1": "b"}
    assert after["r0"]["metrics_address"] == before["r0"]["metrics_address"] == f"127.0.0.1:{serve.metrics_port}"
    assert all(after[name]["server_pid"] != before[name]["server_pid"] for name in before)


@pytest.mark.parametrize("harm", ["kill", "suspend"])
def test_envoy_is_restarted_if_it_exits_or_hangs(serve: Serve, harm: str) -> None:
    assert serve.process is not None
    (envoy,) = [child for child in psutil.Process(serve.process.pid).children() if "envoy" in child.name()]
    getattr(envoy, harm)()
    wait_until(lambda: not envoy.is_running() and _answers(serve), "the proxy serves again")


def _answers(serve: Serve) -> bool:
    try:
        return serve.ask(b"hello", 5.0) == b"hello"
    except ClientError:
        return False


def test_a_replica_that_cannot_be_added_is_reported_and_the_others_serve(serve: Serve) -> None:
    model = serve.repository / "echo" / "1" / "model.py"
    whole = model.read_text()
    model.write_text("import no_such_library\n")
    try:
        done = serve.verb("scale", "3")
    finally:
        model.write_text(whole)
    assert done.returncode == 1
    assert "3 replicas requested" in done.stderr
    assert "no_such_library" in serve.output()
    assert serve.ask(b"still here") == b"still here"
    assert sorted(replicas(serve)) == ["r0", "r1"]


def test_the_gateway_serves_and_is_restarted(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    running = Serve(tmp_path, options=[f"--gateway-port={port}"])

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=scaled(10)) as answer:
                return json.load(answer)["object"] == "list"
        except OSError:
            return False

    try:
        running.start()
        assert f"OpenAI   http://127.0.0.1:{port}/v1" in running.output()
        assert answers()
        assert running.process is not None
        (gateway,) = [p for p in psutil.Process(running.process.pid).children() if "gateway" in p.cmdline()]
        gateway.kill()
        wait_until(lambda: not gateway.is_running() and answers(), "the gateway serves again")
        running.stop()
        assert not answers()
    finally:
        running.kill()


@pytest.mark.parametrize("arguments", [["--zones=a,a"], ["--zones=a,"], ["--zones=a", "--own-zone=b"]])
def test_invalid_zones_are_a_usage_error(tmp_path: Path, arguments: list[str]) -> None:
    done = Serve(tmp_path, options=arguments).run_to_its_end()
    assert done.returncode == 2
    assert arguments[-1].split("=")[0] in done.stderr
