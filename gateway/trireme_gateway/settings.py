"""Settings of a gateway."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from trireme_gateway.errors import GatewayError

# Triton's HTTP front end (24.10) crashes on larger bodies; a prompt of a million characters fits.
MOST_BODY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Address:
    """A listener's address."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, flag: str) -> Address:
        """Read ``host:port``.

        Raises:
            GatewayError: ``text`` is not ``host:port``; names ``flag``.
        """
        host, colon, port = text.rpartition(":")
        if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise GatewayError(f"{flag} is {text!r}; it must be host:port, e.g. 127.0.0.1:8080")
        return cls(host.strip("[]"), int(port))

    @property
    def is_loopback(self) -> bool:
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """One gateway.

    Attributes:
        triton: ``host:port`` of Triton's gRPC endpoint; several separated by commas.
        triton_http: of Triton's HTTP endpoint, for ``/v2``; empty disables ``/v2``.
        listen: the public listener.
        metrics_listen: a second listener for ``/metrics`` and ``/healthz`` only; None serves them on ``listen``.
        keys_path: the file of API keys; None disables authentication.
        request_timeout_seconds: for a whole request, including the last token.
        stall_seconds: disconnect a caller that reads nothing of a stream for this long.
    """

    triton: str
    listen: Address
    triton_http: str = ""
    metrics_listen: Address | None = None
    keys_path: Path | None = None
    request_timeout_seconds: float = 300.0
    stall_seconds: float = 30.0

    def __post_init__(self) -> None:
        if self.keys_path is None and not self.listen.is_loopback:
            raise GatewayError(
                f"--listen {self.listen.host} is not the loopback address and no API key would be required; "
                "pass a key file with --keys (create one with: trireme gateway-key add NAME --keys FILE)"
            )
