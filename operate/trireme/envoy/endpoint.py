"""What stands before and behind an Envoy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trireme.ports import LOOPBACK


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One replica.

    Attributes:
        host: IP address or, where ``FrontDoor.by_name``, name that DNS knows.
        grpc_port, http_port: of its tritonserver.
        agent_port: of its readiness agent, whose ``/readyz`` decides whether it gets requests.
    """

    name: str
    zone: str
    host: str
    grpc_port: int
    http_port: int
    agent_port: int


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files of the front door; with ``client_ca`` callers must show a certificate that it signed (mTLS)."""

    certificate: Path
    private_key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True)
class FrontDoor:
    """How Envoy listens and chooses.

    Attributes:
        admin_port: statistics and drain; always on loopback unless ``admin_host`` says otherwise.
        own_zone: replicas of other zones get requests only as far as those of this zone cannot take them; empty: all
            zones alike.
        max_requests: in flight and waiting, over all replicas; what comes beyond is refused at once (503, UNAVAILABLE).
        second_try_seconds: an inference (not a stream) without an answer for so long is asked of another replica too,
            and the first answer counts: of processes that hang without a sign. 0: never.
        by_name: endpoints are names that DNS resolves, fixed in the cluster; otherwise addresses that may change live.
        access_log: a JSON line for each request; ``/dev/stdout`` in a container.
    """

    grpc_port: int
    http_port: int
    admin_port: int
    host: str = LOOPBACK
    admin_host: str = LOOPBACK
    own_zone: str = ""
    tls: TlsFiles | None = None
    max_requests: int = 1024
    second_try_seconds: float = 5.0
    by_name: bool = False
    access_log: Path = Path("/dev/null")
