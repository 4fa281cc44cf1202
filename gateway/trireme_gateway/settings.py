"""What a gateway is started with."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path

from trireme_gateway.errors import GatewayError

# Triton's HTTP front end dies of larger ones (24.10), and a prompt of a million characters fits.
MOST_BODY_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, flag: str) -> Address:
        """Read ``host:port``.

        Raises:
            GatewayError: it is none; names ``flag``.
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
        triton: ``host:port`` of Triton's gRPC front, several with commas.
        triton_http: of its HTTP front, for ``/v2``; empty: these routes are not served.
        listen: where callers come.
        metrics_listen: a second address, for ``/metrics`` and ``/healthz`` alone; None: they stand beside the rest.
        keys_path: the file of API keys; None: none are asked for.
        request_timeout_seconds: of all of a request, to the last token.
        stall_seconds: how long a caller may read nothing of a stream.
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
                f"--listen {self.listen.host} is not the loopback address, and nobody would be asked for a key; "
                "name a file of keys with --keys (make one with: trireme gateway-key add NAME --keys FILE)"
            )
