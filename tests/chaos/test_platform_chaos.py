"""Failures of replicas, agents, zones and processes under traffic; callers must not notice any of them."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import psutil
import pytest
from trireme.serving.envoy.config_files import write_endpoints
from trireme.serving.envoy.proxy_config import ReplicaEndpoint

from tests.chaos.platform_stack import PlatformStack
from tests.chaos.report import ChaosReport
from tests.chaos.scenario import Scenario, scenario
from tests.deadlines import scaled
from tests.e2e.serving import wait_until

_BOTH = ("r0", "r1")


def test_all_replicas_are_restarted_in_turn(platform: PlatformStack, report: ChaosReport) -> None:
    with scenario(platform, report, "rolling restart") as running:
        before = {platform.server_of(name).pid for name in _BOTH}
        running.fault()
        done = platform.verb("restart")
        assert done.returncode == 0, done.stderr
        running.wait_until_healthy(*_BOTH)
        assert not before & {platform.server_of(name).pid for name in _BOTH}


def test_a_stub_is_killed(platform: PlatformStack, report: ChaosReport) -> None:
    with scenario(platform, report, "kill -9 of a stub") as running:
        killed = platform.stub_of("r0", "echo_worker")
        running.fault()
        killed.kill()
        wait_until(lambda: platform.replicas()["r0"]["heals"] > 0, "its model is reloaded")
        running.wait_until_healthy(*_BOTH)
        assert platform.stub_of("r0", "echo_worker").pid != killed.pid


@pytest.mark.slow
def test_the_stub_of_a_route_is_killed(platform: PlatformStack, report: ChaosReport) -> None:
    with scenario(platform, report, "kill -9 of a router's stub") as running:
        heals = platform.replicas()["r1"]["heals"]
        running.fault()
        platform.stub_of("r1", "echo").kill()
        wait_until(lambda: platform.replicas()["r1"]["heals"] > heals, "its model is reloaded")
        running.wait_until_healthy(*_BOTH)


def test_a_server_is_killed(platform: PlatformStack, report: ChaosReport) -> None:
    with scenario(platform, report, "kill -9 of a server") as running:
        _kill_server(platform, running, "r0")


@pytest.mark.slow
def test_an_agent_is_killed(platform: PlatformStack, report: ChaosReport) -> None:
    with scenario(platform, report, "kill -9 of an agent") as running:
        killed, server = platform.agent_of("r1"), platform.server_of("r1")
        running.fault()
        killed.kill()
        wait_until(lambda: platform.replicas()["r1"]["agent_pid"] not in (None, killed.pid), "a new one is running")
        running.wait_until_healthy(*_BOTH)
        assert platform.server_of("r1").pid == server.pid


@pytest.mark.slow
def test_the_replica_with_most_requests_is_killed(platform: PlatformStack, report: ChaosReport) -> None:
    with scenario(platform, report, "kill -9 of the replica that Envoy asks most") as running:
        before = running.watch.requests()
        running.wait_for_traffic(1.0)
        received = {name: count - before[name] for name, count in running.watch.requests().items()}
        _kill_server(platform, running, max(received, key=lambda name: received[name]))


def test_a_server_is_stopped(platform: PlatformStack, report: ChaosReport) -> None:
    with scenario(platform, report, "SIGSTOP of a server") as running:
        stopped = platform.server_of("r1")
        running.fault()
        stopped.send_signal(signal.SIGSTOP)
        running.wait_until_left("r1")
        wait_until(lambda: platform.replicas()["r1"]["server_pid"] not in (None, stopped.pid), "a new one is running")
        running.wait_until_healthy(*_BOTH)
        assert not stopped.is_running()


@pytest.mark.slow
def test_a_stub_is_stopped(platform: PlatformStack, report: ChaosReport) -> None:
    with scenario(platform, report, "SIGSTOP of a stub") as running:
        stopped = platform.stub_of("r0", "echo_worker")
        running.fault()
        stopped.send_signal(signal.SIGSTOP)
        wait_until(lambda: not stopped.is_running() or stopped.status() == psutil.STATUS_ZOMBIE, "it is killed")
        running.wait_until_left("r0")
        running.wait_until_healthy(*_BOTH)


@pytest.mark.slow
def test_a_replica_accepts_connections_and_never_responds(platform: PlatformStack, report: ChaosReport) -> None:
    with (
        scenario(platform, report, "a replica that accepts and never answers") as running,
        _black_hole() as hole,
    ):
        envoy_directory = platform.state_dir / "run" / "envoy"
        running.fault()
        write_endpoints(envoy_directory, platform.proxy(), [*platform.endpoints(), hole])
        wait_until(lambda: running.watch.requests().get("hole", 0) > 0, "it received requests")
        running.wait_until_left("hole")
        write_endpoints(envoy_directory, platform.proxy(), platform.endpoints())
        running.wait_until_healthy(*_BOTH)


@pytest.mark.slow
def test_scale_up_with_a_slow_start_and_down(platform: PlatformStack, report: ChaosReport) -> None:
    behaviour = platform.repository / "echo_worker" / "1" / "behaviour.json"
    before = behaviour.read_text()
    with scenario(platform, report, "scale 1, 3 (slow to start), 1") as running:
        for count in (1, 3, 1, 2):
            behaviour.write_text(json.dumps({"load_seconds": 4}) if count == 3 else before)
            _scale(platform, count)
            running.wait_until_healthy(*(f"r{number}" for number in range(count)))


@pytest.mark.parametrize("replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_zone_is_killed(platform: PlatformStack, report: ChaosReport, replicas: int) -> None:
    _scale(platform, replicas)
    with scenario(platform, report, f"kill -9 of everything in a zone, {replicas} replicas") as running:
        lost = [name for name, replica in platform.replicas().items() if replica["zone"] == "b"]
        processes = [
            process
            for name in lost
            for root in (platform.server_of(name), platform.agent_of(name))
            for process in (root, *root.children(recursive=True))
        ]
        assert len(lost) == replicas / 2
        running.fault()
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for name in lost:
            running.wait_until_left(name)
        running.wait_until_healthy(*(f"r{number}" for number in range(replicas)))
    _scale(platform, 2)


def test_a_version_is_published_and_rolled_back_while_a_server_dies(
    platform: PlatformStack, report: ChaosReport
) -> None:
    with scenario(platform, report, "publish and rollback while a server is killed") as running:
        loading = platform.repository / "echo_worker" / str(platform.versions()[-1] + 1)
        publish = platform.start_verb("publish", "echo_worker", str(platform.source("late", load_seconds=1)))
        wait_until(loading.exists, "the load started")
        running.fault()
        platform.server_of("r0").kill()
        output = publish.communicate(timeout=scaled(120.0))[0]
        running.facts["publish"] = output.strip().splitlines()[-1]
        running.wait_until_healthy(*_BOTH)
        if publish.returncode:
            done = platform.publish("again")
            assert done.returncode == 0, done.stderr
        assert platform.verb("promote", "echo_standard", f"--to={platform.versions()[-1]}").returncode == 0
        platform.server_of("r1").kill()
        done = platform.verb("rollback", "echo_standard")
        assert done.returncode == 0, done.stderr
        running.wait_until_healthy(*_BOTH)
    assert {platform.worker() for _ in range(20)} == {1}


@pytest.mark.slow
def test_envoy_itself_is_killed(platform: PlatformStack, report: ChaosReport) -> None:
    """There is only one Envoy: requests in flight, and those before its restart, fail."""
    with scenario(platform, report, "kill -9 of Envoy (failures expected)", lossless=False) as running:
        killed = psutil.Process(platform.envoy_pid())
        running.fault()
        killed.kill()
        wait_until(lambda: platform.envoy_pid() not in (None, killed.pid), "a new one is running")
        running.wait_until_healthy(*_BOTH)
        new = time.monotonic()
        # Channels reconnect after a backoff.
        wait_until(lambda: running.answered_since(new), "every kind of caller got a response")
        back = time.monotonic()
        running.wait_for_traffic(2.0)
    late = [call for call in running.traffic.outcomes if call.due > back and call.failure]
    assert late == []


def _scale(platform: PlatformStack, replicas: int) -> None:
    done = platform.verb("scale", str(replicas))
    assert done.returncode == 0, done.stderr


def _kill_server(platform: PlatformStack, running: Scenario, name: str) -> None:
    killed = platform.server_of(name)
    running.fault()
    killed.kill()
    running.wait_until_left(name)
    wait_until(lambda: platform.replicas()[name]["server_pid"] not in (None, killed.pid), "a new one is running")
    running.wait_until_healthy(*_BOTH)


@contextlib.contextmanager
def _black_hole() -> Iterator[ReplicaEndpoint]:
    """A replica whose agent reports ready, and whose ports accept connections but never respond."""

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with (
        socket.create_server(("127.0.0.1", 0), backlog=1024) as silent,
        ThreadingHTTPServer(("127.0.0.1", 0), Ready) as agent,
    ):
        thread = threading.Thread(target=agent.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        port = silent.getsockname()[1]
        try:
            yield ReplicaEndpoint("hole", "a", "127.0.0.1", port, port, agent.server_port)
        finally:
            agent.shutdown()
            thread.join()
