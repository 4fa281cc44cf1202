"""``trireme envoy-config``: write the configuration of an Envoy run by others, such as Docker Compose."""

from __future__ import annotations

from pathlib import Path

import click

from trireme.errors import TriremeError
from trireme.processes.ports import LOOPBACK
from trireme.serving.envoy.config_files import write_config
from trireme.serving.envoy.proxy_config import ProxyConfig, ReplicaEndpoint
from trireme.serving.envoy.tls import TlsFiles, tls_options

_PORT = click.IntRange(1, 65535)


@click.command("envoy-config")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--replica",
    "replicas",
    multiple=True,
    required=True,
    metavar="HOST=ZONE",
    help="Host and zone of a replica; repeat for each.",
)
@click.option("--own-zone", default="", help="Preferred zone; the others take its overflow.  [default: none]")
@click.option(
    "--by-name", is_flag=True, help="Resolve each HOST through DNS, repeatedly.  [default: HOST is an IP address]"
)
@click.option(
    "--seen-at", type=click.Path(path_type=Path), help="Path of DIRECTORY as seen by Envoy.  [default: DIRECTORY]"
)
@click.option("--host", default=LOOPBACK, show_default=True, help="Address on which Envoy listens.")
@click.option("--grpc-port", default=8001, show_default=True, type=_PORT, help="gRPC port of Envoy and each replica.")
@click.option("--http-port", default=8000, show_default=True, type=_PORT, help="HTTP port of Envoy and each replica.")
@click.option("--agent-port", default=8003, show_default=True, type=_PORT, help="Port of each replica's agent.")
@click.option("--admin-host", default=LOOPBACK, show_default=True, help="Address of Envoy's admin endpoint.")
@click.option("--admin-port", default=9901, show_default=True, type=_PORT, help="Port of Envoy's admin endpoint.")
@tls_options
@click.option(
    "--access-log",
    type=click.Path(path_type=Path),
    default=Path("/dev/stdout"),
    show_default=True,
    help="File for Envoy's access log.",
)
def envoy_config(
    directory: Path,
    replicas: tuple[str, ...],
    own_zone: str,
    by_name: bool,
    seen_at: Path | None,
    host: str,
    grpc_port: int,
    http_port: int,
    agent_port: int,
    admin_host: str,
    admin_port: int,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    access_log: Path,
) -> None:
    """Write the configuration of an Envoy in front of replicas to DIRECTORY; start it with bootstrap.yaml.

    A running Envoy applies changes at once, without losing a request. Name the TLS files by their paths as seen by
    Envoy.
    """
    zones: dict[str, str] = {}
    for replica in replicas:
        name, _, zone = replica.partition("=")
        if not name or not zone or name in zones:
            raise click.BadParameter(f"is {replica!r}; it must be HOST=ZONE, each host once", param_hint="--replica")
        zones[name] = zone
    if own_zone and own_zone not in zones.values():
        raise click.BadParameter(f"is {own_zone!r}; it must be the zone of a --replica", param_hint="--own-zone")
    proxy = ProxyConfig(
        grpc_port,
        http_port,
        admin_port,
        host=host,
        admin_host=admin_host,
        local_zone=own_zone,
        tls=TlsFiles.from_options(tls_certificate, tls_key, tls_client_ca),
        by_name=by_name,
        access_log=access_log,
    )
    endpoints = [ReplicaEndpoint(name, zone, name, grpc_port, http_port, agent_port) for name, zone in zones.items()]
    try:
        bootstrap = write_config(directory, proxy, endpoints, seen_at=seen_at and seen_at.absolute())
    except OSError as error:
        raise TriremeError(f"{directory}: cannot be written ({error.strerror}); choose another directory") from None
    click.echo(bootstrap)
