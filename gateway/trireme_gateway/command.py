"""``trireme gateway`` and ``trireme gateway-key``."""

from __future__ import annotations

import json
import logging
import resource
import signal
import socket
from pathlib import Path

import click
import uvicorn
from trireme.structured_log import JsonFormatter

from trireme_gateway.connection import PatientProtocol
from trireme_gateway.errors import GatewayError
from trireme_gateway.keys import KeyFile
from trireme_gateway.settings import Address, GatewaySettings

_DRAIN_SECONDS = 30


@click.command(context_settings={"auto_envvar_prefix": "TRIREME_GATEWAY"})
@click.option("--triton", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT",
              help="Triton's gRPC front; several with commas.")  # fmt: skip
@click.option("--triton-http", default="", metavar="HOST:PORT", help="Triton's HTTP front; serves /v2.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT")
@click.option("--metrics-listen", default="", metavar="HOST:PORT",
              help="An address of its own for /metrics and /healthz, without keys.")  # fmt: skip
@click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="The file of API keys.")
@click.option("--request-timeout", "timeout_seconds", default=300.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(min=0.001), help="Of all of a request, to the last token.")  # fmt: skip
@click.option("--stall-timeout", "stall_seconds", default=30.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(min=0.001), help="How long a caller may read nothing of a stream.")  # fmt: skip
def gateway(
    triton: str, triton_http: str, listen: str, metrics_listen: str, keys: Path | None, timeout_seconds: float,
    stall_seconds: float,
) -> None:  # fmt: skip
    """Serve OpenAI's API over Triton until SIGTERM."""
    settings = GatewaySettings(
        triton=triton,
        triton_http=triton_http,
        listen=Address.parse(listen, "--listen"),
        metrics_listen=Address.parse(metrics_listen, "--metrics-listen") if metrics_listen else None,
        keys_path=keys,
        request_timeout_seconds=timeout_seconds,
        stall_seconds=stall_seconds,
    )
    if keys is not None and not KeyFile(keys).all():
        raise GatewayError(f"{keys} holds no key; make one with: trireme gateway-key add NAME --keys {keys}")
    serve(settings)


def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or Ctrl-C; requests on their way then have half a minute to end."""
    # FastAPI takes a while to import: not for --help.
    from trireme_gateway.app import Gateway

    _log_as_json()
    _allow_many_connections()
    sockets = [_bound(address) for address in (settings.listen, settings.metrics_listen) if address is not None]
    config = uvicorn.Config(
        Gateway(settings).app,
        http=PatientProtocol,
        ws="none",
        loop="uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # uvicorn has its own meanwhile, and raises the signal again at its end.
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets)


def _log_as_json() -> None:
    """What this process logs goes to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _bound(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address.host, address.port))
    except OSError as error:
        listener.close()
        raise GatewayError(f"cannot listen on {address.host}:{address.port}: {error.strerror or error}") from None
    return listener


def _allow_many_connections() -> None:
    """Each takes a file descriptor; the usual soft limit of 1024 is for programs that use select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@click.group("gateway-key")
def gateway_key() -> None:
    """Make, list and revoke the gateway's API keys. A change holds at once, also in a gateway that runs."""


_keys = click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file of keys.",
                     envvar="TRIREME_GATEWAY_KEYS")  # fmt: skip
_limit = click.IntRange(min=1)


@gateway_key.command()
@click.argument("name")
@_keys
@click.option("--requests-per-minute", type=_limit, metavar="N")
@click.option("--tokens-per-minute", type=_limit, metavar="N", help="Of prompts and answers.")
def add(name: str, keys: Path, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
    """Make a key and print it: it is kept nowhere else."""
    click.echo(KeyFile(keys).add(name, requests_per_minute=requests_per_minute, tokens_per_minute=tokens_per_minute))


@gateway_key.command("list")
@_keys
@click.option("--json", "as_json", is_flag=True)
def list_keys(keys: Path, as_json: bool) -> None:
    """List the keys: names and limits."""
    found = [
        {"name": key.name, "requests_per_minute": key.requests_per_minute, "tokens_per_minute": key.tokens_per_minute}
        for key in KeyFile(keys).all()
    ]
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for key in found:
        limits = [f"{key[name]} {name.replace('_per_', ' a ')}" for name in key if name != "name" and key[name]]
        click.echo(f"{key['name']}: {', '.join(limits) or 'no limits'}")


@gateway_key.command()
@click.argument("name")
@_keys
def revoke(name: str, keys: Path) -> None:
    """Forget a key: who shows it is let in no more."""
    KeyFile(keys).revoke(name)
    click.echo(f"{name} is revoked")
