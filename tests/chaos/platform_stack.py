"""Replicas behind Envoy, one in each zone, with light models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
from trireme.processes.stubs import stub_processes
from trireme.serving.envoy.proxy_config import ProxyConfig, ReplicaEndpoint

from tests.e2e.release_stack import ReleaseStack


class PlatformStack(ReleaseStack):
    """A ``trireme serve`` with a replica in each zone; subclasses can wrap its command in a shell."""

    wrapper: tuple[str, ...] = ()

    def __init__(self, directory: Path, zones: str = "a,b") -> None:
        super().__init__(directory)
        self._write_golden("echo")
        self.options = (f"--replicas={len(zones.split(','))}", f"--zones={zones}")

    def _command(self) -> list[str]:
        return [*self.wrapper, *super()._command()]

    @property
    def http_address(self) -> str:
        return f"127.0.0.1:{self.http_port}"

    @property
    def admin_address(self) -> str:
        address: str = self.state()["envoy_admin_address"]
        return address

    def serving(self) -> set[str]:
        """The healthy replicas."""
        return {name for name, replica in self.replicas().items() if replica["phase"] == "serving"}

    def replicas(self) -> dict[str, dict[str, Any]]:
        return {replica["name"]: replica for replica in self.state()["replicas"]}

    def server_of(self, name: str) -> psutil.Process:
        return psutil.Process(self.replicas()[name]["server_pid"])

    def agent_of(self, name: str) -> psutil.Process:
        return psutil.Process(self.replicas()[name]["agent_pid"])

    def stub_of(self, name: str, model: str) -> psutil.Process:
        """The stub of a model on a replica."""
        found = [
            stub
            for stub in stub_processes(self.server_of(name).pid)
            if f"/{model}/" in stub.cmdline()[1] and stub.status() != psutil.STATUS_ZOMBIE
        ]
        assert found, f"{name} has no process of {model}"
        return found[0]

    def envoy_pid(self) -> int | None:
        """The pid of Envoy; None while it is not running."""
        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        return next((child.pid for child in children if "envoy" in child.name()), None)

    def proxy(self) -> ProxyConfig:
        return ProxyConfig(self.grpc_port, self.http_port, int(self.admin_address.rpartition(":")[2]))

    def endpoints(self) -> list[ReplicaEndpoint]:
        def port(address: str) -> int:
            return int(address.rpartition(":")[2])

        return [
            ReplicaEndpoint(
                name,
                replica["zone"],
                "127.0.0.1",
                port(replica["grpc_address"]),
                port(replica["http_address"]),
                port(replica["agent_address"]),
            )
            for name, replica in self.replicas().items()
        ]

    def processes(self) -> list[psutil.Process]:
        """``trireme serve`` and all its descendants."""
        assert self.process is not None
        serve = psutil.Process(self.process.pid)
        return [serve, *serve.children(recursive=True)]
