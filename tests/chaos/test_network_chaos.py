"""Two zones in network namespaces, each connected to Envoy by a link that is slow, lossy or cut."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from trireme.processes.ports import free_ports
from trireme.serving.envoy.process import EnvoyProcess
from trireme.serving.envoy.proxy_config import ProxyConfig, ReplicaEndpoint

from tests.chaos.platform_stack import PlatformStack
from tests.chaos.report import ChaosReport
from tests.chaos.scenario import scenario
from tests.chaos.wire import Wire, why_not
from tests.chaos.zone_replica import AGENT_PORT, GRPC_PORT, HTTP_PORT
from tests.deadlines import scaled
from tests.deploy.engine import install_debian_packages
from tests.e2e.serving import wait_until

pytestmark = pytest.mark.skipif(bool(why_not()), reason=why_not() or "links are available")
_PROJECT = Path(__file__).resolve().parents[2]


@dataclass
class Zones:
    """Zone ``a`` is local to Envoy; ``b`` takes over if ``a`` has no healthy replica."""

    a: Wire
    b: Wire
    envoy: EnvoyProcess

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.envoy.proxy.grpc_port}"

    @property
    def http_address(self) -> str:
        return f"127.0.0.1:{self.envoy.proxy.http_port}"

    @property
    def admin_address(self) -> str:
        return self.envoy.proxy.admin_address

    def serving(self) -> set[str]:
        return {"a", "b"}


@pytest.fixture(scope="module")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zones]:
    directory = tmp_path_factory.mktemp("zones")
    repository = PlatformStack(directory)
    install_debian_packages({"ip": "iproute2"})
    with ExitStack() as stack:
        wires = []
        for number, zone in enumerate("ab"):
            wire = Wire(f"trireme-{zone}", 11 + number)
            stack.callback(wire.close)
            (directory / zone).mkdir()
            command = ["ip", "netns", "exec", wire.name, sys.executable, "-m", "tests.chaos.zone_replica"]
            replica = subprocess.Popen(
                [*command, zone, wire.address, str(directory / zone)],
                cwd=_PROJECT,
                env=repository.environment(),
                stdin=subprocess.PIPE,
            )
            stack.callback(_end, replica)
            wires.append(wire)
        endpoints = [
            ReplicaEndpoint(zone, zone, wire.address, GRPC_PORT, HTTP_PORT, AGENT_PORT)
            for zone, wire in zip("ab", wires, strict=True)
        ]
        envoy = EnvoyProcess.start(directory / "envoy", ProxyConfig(*free_ports(3), local_zone="a"), endpoints)
        stack.callback(envoy.stop)
        wait_until(lambda: all(envoy.healthy("triton_grpc").values()), "both zones are healthy")
        yield Zones(*wires, envoy)


@pytest.mark.slow
def test_slow_link_to_a_zone(zones: Zones, report: ChaosReport) -> None:
    with scenario(zones, report, "200 ms of delay to a zone") as running:
        running.fault()
        zones.a.delay_seconds = 0.1
        running.wait_for_traffic(4.0)
        zones.a.delay_seconds = 0.0
    # A slow replica stays healthy.
    assert running.watch.left_after(running.begin) == {}


@pytest.mark.slow
def test_links_lose_packets(zones: Zones, report: ChaosReport) -> None:
    with scenario(zones, report, "1 % of packets lost") as running:
        running.fault()
        zones.a.loss = zones.b.loss = 0.01
        running.wait_for_traffic(6.0)
        zones.a.loss = zones.b.loss = 0.0
        running.wait_until_healthy("a", "b")


def test_a_zone_is_disconnected(zones: Zones, report: ChaosReport) -> None:
    with scenario(zones, report, "a zone cut off") as running:
        running.fault()
        zones.a.is_cut = True
        running.wait_until_left("a")
        running.wait_for_traffic(2.0)
        zones.a.is_cut = False
        running.wait_until_healthy("a", "b")
        before = running.watch.requests()["a"]
        wait_until(lambda: running.watch.requests()["a"] > before, "the zone receives requests again")


def _end(replica: subprocess.Popen[bytes]) -> None:
    assert replica.stdin is not None
    replica.stdin.close()
    replica.wait(timeout=scaled(60.0))
