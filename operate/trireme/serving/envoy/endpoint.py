"""What stands before and behind an Envoy."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import TriremeError
from trireme.processes.ports import LOOPBACK


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

    def check(self) -> None:
        """Read them as Envoy will.

        Raises:
            TriremeError: one cannot be read, holds something else, or the key is not the certificate's.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        for path in (self.certificate, self.private_key, self.client_ca):
            try:
                if path:
                    path.read_bytes()
            except OSError as error:
                raise TriremeError(f"{path}: cannot be read ({error.strerror}); TLS needs it") from None
        try:
            # Without a password: nobody is there to type one when Envoy is started again.
            context.load_cert_chain(self.certificate, self.private_key, password=b"")
        except (ssl.SSLError, OSError, ValueError) as error:
            raise TriremeError(
                f"{self.certificate} and {self.private_key} are no PEM certificate with its own key, without a "
                f"password: {error}"
            ) from None
        try:
            if self.client_ca:
                context.load_verify_locations(self.client_ca)
        except ssl.SSLError as error:
            raise TriremeError(f"{self.client_ca} holds no PEM certificate of an authority: {error}") from None


@dataclass(frozen=True, slots=True)
class PlainPorts:
    """Ports on loopback without TLS."""

    grpc: int
    http: int


@dataclass(frozen=True, slots=True)
class FrontDoor:
    """How Envoy listens and chooses.

    Attributes:
        admin_port: statistics and drain; always on loopback unless ``admin_host`` says otherwise.
        own_zone: replicas of other zones get requests only as far as those of this zone cannot take them; empty: all
            zones alike.
        plain: beside a door with TLS, for what runs on this machine.
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
    plain: PlainPorts | None = None
    max_requests: int = 1024
    second_try_seconds: float = 5.0
    by_name: bool = False
    access_log: Path = Path("/dev/null")

    @property
    def grpc_address(self) -> str:
        """Where callers go."""
        return f"{self.host}:{self.grpc_port}"

    @property
    def http_address(self) -> str:
        """Where callers go."""
        return f"{self.host}:{self.http_port}"

    @property
    def local_grpc_address(self) -> str:
        """Where callers on this machine go, who show and ask for no certificate."""
        return f"{LOOPBACK}:{self.plain.grpc}" if self.plain else self.grpc_address

    @property
    def local_http_address(self) -> str:
        """The same for HTTP."""
        return f"{LOOPBACK}:{self.plain.http}" if self.plain else self.http_address
