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

from trireme_gateway.connection import RequestTimeoutProtocol
from trireme_gateway.errors import GatewayError
from trireme_gateway.keys import KeyFile
from trireme_gateway.settings import Address, GatewaySettings

_DRAIN_SECONDS = 30


@click.command(context_settings={"auto_envvar_prefix": "TRIREME_GATEWAY"})
@click.option("--triton", default="127.0.0.1:8001", show_default=True, metavar="HOST:PORT",
              help="Triton's gRPC endpoint; several separated by commas.")  # fmt: skip
@click.option("--triton-http", default="", metavar="HOST:PORT", help="Triton's HTTP endpoint; enables /v2.")
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT")
@click.option("--metrics-listen", default="", metavar="HOST:PORT",
              help="Serve /metrics and /healthz on this address instead, without API keys.")  # fmt: skip
@click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), help="File of API keys.")
@click.option("--request-timeout", "timeout_seconds", default=300.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(min=0.001), help="Time limit for a whole request.")  # fmt: skip
@click.option("--stall-timeout", "stall_seconds", default=30.0, show_default=True, metavar="SECONDS",
              type=click.FloatRange(min=0.001), help="Disconnect a caller that stops reading a stream.")  # fmt: skip
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
        raise GatewayError(f"{keys} holds no key; create one with: trireme gateway-key add NAME --keys {keys}")
    serve(settings)


def serve(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or Ctrl-C; requests in progress then have 30 seconds to finish."""
    # Imported here because FastAPI is slow to import and --help does not need it.
    from trireme_gateway.app import Gateway

    _log_as_json()
    _allow_many_connections()
    sockets = [_bound(address) for address in (settings.listen, settings.metrics_listen) if address is not None]
    config = uvicorn.Config(
        Gateway(settings).app,
        http=RequestTimeoutProtocol,
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
        # uvicorn installs its own handlers while it runs, and raises the signal again at its end.
        signal.signal(number, lambda *_: None)
    uvicorn.Server(config).run(sockets)


def _log_as_json() -> None:
    """Log JSON lines to stderr."""
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
    """Raise the soft limit of file descriptors to the hard limit; each connection takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@click.group("gateway-key")
def gateway_key() -> None:
    """Create, list and revoke the gateway's API keys. A running gateway applies changes at once."""


_keys = click.option("--keys", type=click.Path(path_type=Path, dir_okay=False), required=True, help="File of API keys.",
                     envvar="TRIREME_GATEWAY_KEYS")  # fmt: skip
_limit = click.IntRange(min=1)


@gateway_key.command()
@click.argument("name")
@_keys
@click.option("--requests-per-minute", type=_limit, metavar="N")
@click.option("--tokens-per-minute", type=_limit, metavar="N", help="Counts prompts and completions.")
def add(name: str, keys: Path, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
    """Create a key and print it; it is shown only once."""
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
        limits = [f"{key[name]} {name.replace('_per_', ' per ')}" for name in key if name != "name" and key[name]]
        click.echo(f"{key['name']}: {', '.join(limits) or 'no limits'}")


@gateway_key.command()
@click.argument("name")
@_keys
def revoke(name: str, keys: Path) -> None:
    """Revoke a key: requests that present it are rejected from now on."""
    KeyFile(keys).revoke(name)
    click.echo(f"revoked {name}")
