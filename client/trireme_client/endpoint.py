"""Addresses of servers, with the proxy and the TLS settings to reach them."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy")
_DEFAULT_PORTS = {"grpc": 8001, "http": 8000, "https": 8000}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One server, or a proxy in front of several.

    Attributes:
        address: ``host:port`` or ``grpc://host:port`` for gRPC, ``http://host:port`` or ``https://host:port`` for HTTP.
        zone: of the server; a client with the same zone prefers it.
        direct: never use the environment's proxy; it is never used for addresses of this machine.
    """

    address: str
    zone: str = ""
    direct: bool = False
    scheme: str = field(init=False, default="grpc", repr=False)
    host: str = field(init=False, default="", repr=False)
    port: int = field(init=False, default=0, repr=False)
    hostname: str = field(init=False, default="", repr=False)  # set if `host` is one of its IPs

    def __post_init__(self) -> None:
        scheme, separator, rest = self.address.partition("://")
        if not separator:
            scheme, rest = "grpc", self.address
        try:
            parts = urlsplit(f"//{rest}")
            default = _DEFAULT_PORTS[scheme]
            port = parts.port or default
        except (ValueError, KeyError):
            parts, port = urlsplit(""), 0
        if not parts.hostname or parts.path or parts.query or parts.username:
            raise ValueError(
                f"{self.address!r} is not an address; write host:port, http://host:port or https://host:port"
            )
        for name, value in (("scheme", scheme), ("host", parts.hostname), ("port", port)):
            object.__setattr__(self, name, value)

    @property
    def target(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_hostname(self) -> bool:
        """Whether the host must be resolved and may be several servers."""
        if self.scheme != "grpc" or self.host == "localhost":
            return False
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return True
        return False

    @property
    def proxy_variable(self) -> str:
        """The environment variable that names the proxy to this server; "" without one."""
        host = self.hostname or self.host
        # HTTP never uses a proxy; gRPC uses the first of these. Decided by the caller's host name, not its IPs.
        no_proxy = next((os.environ[name] for name in _NO_PROXY_VARIABLES if os.environ.get(name)), "")
        if self.scheme != "grpc" or self.direct or _is_loopback(self.host) or _is_excluded(no_proxy, host):
            return ""
        return next((name for name in PROXY_VARIABLES if os.environ.get(name)), "")

    @property
    def admin_header(self) -> str:
        """The header in which Triton expects the key of its restricted APIs."""
        return "triton-grpc-protocol-admin-key" if self.scheme == "grpc" else "admin-key"

    def at(self, ip: str) -> Endpoint:
        """The same service at one IP of its host name."""
        host = f"[{ip}]" if ":" in ip else ip
        found = replace(self, address=f"{self.scheme}://{host}:{self.port}")
        object.__setattr__(found, "hostname", self.host)
        return found


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _is_excluded(no_proxy: str, host: str) -> bool:
    """Whether ``no_proxy`` lists a host, by suffix or by a network in CIDR notation."""
    for entry in filter(None, (part.strip() for part in no_proxy.lower().split(","))):
        if entry == "*" or host.endswith(entry):
            return True
        with contextlib.suppress(ValueError):
            if ipaddress.ip_address(host) in ipaddress.ip_network(entry):
                return True
    return False


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS to the server; mutual TLS with ``certificate`` and ``key``.

    Attributes:
        ca: PEM file of the trusted certificate authorities; None: the system's.
        certificate, key: PEM files of this client, both or neither.
        server_name: the name in the server's certificate if it differs from the address.
    """

    ca: Path | str | None = None
    certificate: Path | str | None = None
    key: Path | str | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("Tls needs certificate and key together")
        for path in (self.ca, self.certificate, self.key):
            if path is not None and not Path(path).is_file():
                raise ValueError(f"Tls: file {path} does not exist")

    def read(self) -> tuple[bytes | None, bytes | None, bytes | None]:
        """The PEM texts: ca, key, certificate."""
        ca, key, certificate = (Path(p).read_bytes() if p else None for p in (self.ca, self.key, self.certificate))
        return ca, key, certificate
