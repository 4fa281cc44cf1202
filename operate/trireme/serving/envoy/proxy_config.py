"""What callers and replicas are to an Envoy: where it listens, and the endpoints it balances over."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trireme.processes.ports import LOOPBACK
from trireme.serving.envoy.tls import TlsFiles


@dataclass(frozen=True, slots=True)
class ReplicaEndpoint:
    """One replica.

    Attributes:
        host: IP address or, with ``ProxyConfig.by_name``, DNS name.
        grpc_port, http_port: of its tritonserver.
        agent_port: of its readiness agent; ``/readyz`` there decides whether it gets requests.
    """

    name: str
    zone: str
    host: str
    grpc_port: int
    http_port: int
    agent_port: int


@dataclass(frozen=True, slots=True)
class PlaintextPorts:
    """Ports on loopback without TLS."""

    grpc: int
    http: int


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """How Envoy listens and balances.

    Attributes:
        admin_port: statistics and drain; on loopback unless ``admin_host`` says otherwise.
        local_zone: replicas of other zones get only the requests that those of this zone cannot take; empty: no zone
            is preferred.
        plaintext: listeners beside those with TLS, for callers on this machine.
        max_requests: in flight and waiting, over all replicas; beyond, requests are refused at once (503, UNAVAILABLE).
        hedge_delay_seconds: an inference (not a stream) without an answer for so long is sent to another replica too,
            and the first answer counts: against processes that hang without a sign. 0: never.
        by_name: endpoints are DNS names, fixed in the cluster; otherwise addresses that may change live.
        access_log: a JSON line for each request; ``/dev/stdout`` in a container.
    """

    grpc_port: int
    http_port: int
    admin_port: int
    host: str = LOOPBACK
    admin_host: str = LOOPBACK
    local_zone: str = ""
    tls: TlsFiles | None = None
    plaintext: PlaintextPorts | None = None
    max_requests: int = 1024
    hedge_delay_seconds: float = 5.0
    by_name: bool = False
    access_log: Path = Path("/dev/null")

    @property
    def grpc_address(self) -> str:
        """``host:port`` for callers."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def http_address(self) -> str:
        """``host:port`` for callers."""
        return f"{self.host}:{self.http_port}"

    @property
    def admin_address(self) -> str:
        return f"{self.admin_host}:{self.admin_port}"

    @property
    def local_grpc_address(self) -> str:
        """``host:port`` for callers on this machine, without TLS."""
        return f"{LOOPBACK}:{self.plaintext.grpc}" if self.plaintext else self.grpc_address

    @property
    def local_http_address(self) -> str:
        """``host:port`` for callers on this machine, without TLS."""
        return f"{LOOPBACK}:{self.plaintext.http}" if self.plaintext else self.http_address
