"""Settings of an Envoy: its listeners, and the endpoints it balances over."""

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
        agent_port: of its readiness agent; its ``/readyz`` is the health check.
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
        admin_port: for statistics and drain; on ``admin_host``.
        local_zone: replicas in other zones receive requests only if this zone has no healthy replica; empty: no zone
            is preferred.
        plaintext: listeners without TLS in addition to those with TLS, for callers on this machine.
        max_requests: in flight and pending, over all replicas; excess requests are rejected immediately (503,
            UNAVAILABLE).
        hedge_delay_seconds: an inference request (not a stream) without a response after this time is also sent to
            another replica, and the first response wins. Protects against processes that hang silently. 0: never.
        by_name: endpoints are DNS names, fixed in the cluster; otherwise addresses that can change at run time.
        access_log: one JSON line per request; ``/dev/stdout`` in a container.
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
