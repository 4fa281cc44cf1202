"""``trireme serve``: run replicas of a supervised tritonserver behind Envoy, with every complete model."""

from __future__ import annotations

import ipaddress
import itertools
import logging
import logging.handlers
import os
import signal
from pathlib import Path

import click

from trireme.processes.admin_key import ensure_admin_key
from trireme.processes.leftovers import remove_leftovers
from trireme.processes.ports import LOOPBACK, free_ports, is_free, require_free
from trireme.processes.runtime import EmbeddedRuntime
from trireme.repository.folders import ModelRepository
from trireme.repository.tasks import find_tasks
from trireme.serving.envoy.proxy_config import PlaintextPorts, ProxyConfig
from trireme.serving.envoy.tls import TlsFiles, tls_options
from trireme.serving.fleet import Fleet, FleetPlan
from trireme.serving.prometheus import Prometheus, find_prometheus
from trireme.serving.replica import RestartPolicy
from trireme.serving.run_state import RunDirectory, ServingState
from trireme.settings import Settings
from trireme.structured_log import JsonFormatter

MAX_REPLICAS = 64
_GATEWAY_PORT = 8080
_PROMETHEUS_PORT = 9090


@click.command()
@click.option(
    "--replicas", default=1, show_default=True, type=click.IntRange(1, MAX_REPLICAS), help="Number of tritonservers."
)
@click.option(
    "--zones", default="a", show_default=True, help="Comma-separated zone names; replicas are assigned round-robin."
)
@click.option("--own-zone", default="", help="Preferred zone; the others take its overflow.  [default: none]")
@click.option(
    "--host",
    default=LOOPBACK,
    show_default=True,
    help="IP address on which Envoy listens; other than loopback requires TLS.",
)
@click.option("--grpc-port", default=8001, show_default=True, type=click.IntRange(1, 65535), help="Envoy's gRPC port.")
@click.option("--http-port", default=8000, show_default=True, type=click.IntRange(1, 65535), help="Envoy's HTTP port.")
@click.option(
    "--metrics-port",
    default=8002,
    show_default=True,
    type=click.IntRange(1, 65535),
    help="Metrics port of the first replica.",
)
@click.option(
    "--gateway-port",
    type=click.IntRange(0, 65535),
    help="Port of the OpenAI-compatible gateway; 0 disables it.  [default: 8080, or a free port]",
)
@click.option(
    "--prometheus-port",
    type=click.IntRange(0, 65535),
    help="Port of Prometheus, if installed; 0 disables it.  [default: 9090, or a free port]",
)
@tls_options
def serve(
    replicas: int,
    zones: str,
    own_zone: str,
    host: str,
    grpc_port: int,
    http_port: int,
    metrics_port: int,
    gateway_port: int | None,
    prometheus_port: int | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
) -> None:
    """Serve the model repository on this machine until Ctrl-C or SIGTERM."""
    ports = {"--grpc-port": grpc_port, "--http-port": http_port, "--metrics-port": metrics_port}
    ports |= {
        flag: port for flag, port in (("--gateway-port", gateway_port), ("--prometheus-port", prometheus_port)) if port
    }
    for (first, port), (second, other) in itertools.combinations(ports.items(), 2):
        if port == other:
            raise click.UsageError(f"{first} and {second} are both {port}; use different ports")
    names = [name.strip() for name in zones.split(",")]
    if not all(names) or len(set(names)) < len(names):
        raise click.BadParameter(f"is {zones!r}; it must be distinct names separated by commas", param_hint="--zones")
    if own_zone and own_zone not in names:
        raise click.BadParameter(f"is {own_zone!r}; --zones has {', '.join(names)}", param_hint="--own-zone")
    tls = TlsFiles.from_options(tls_certificate, tls_key, tls_client_ca)
    if tls:
        tls.check()
    try:
        beyond = not ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise click.BadParameter(f"is {host!r}; it must be an IP address", param_hint="--host") from None
    if beyond and not tls:
        raise click.UsageError(f"--host {host} is reachable from other machines; add --tls-certificate and --tls-key")
    settings = Settings.from_environment()
    directory = RunDirectory(settings.run_dir)
    # SIGTERM and Ctrl-C do the same: requests in flight finish, then everything stops.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with directory.only_one():
        _log_to(directory)
        _clean_up(directory)
        for flag, port in ports.items():
            require_free(port, flag)
        admin_port, plain_grpc_port, plain_http_port = free_ports(3)
        proxy = ProxyConfig(
            grpc_port,
            http_port,
            admin_port,
            host=host,
            tls=tls,
            plaintext=PlaintextPorts(plain_grpc_port, plain_http_port) if tls else None,
            local_zone=own_zone,
            access_log=directory.path / "envoy" / "access.log",
        )
        plan = FleetPlan(
            settings=settings,
            directory=directory,
            runtime=EmbeddedRuntime.find(settings),
            replicas=replicas,
            zones=names,
            proxy=proxy,
            metrics_port=metrics_port,
            admin_key=ensure_admin_key(directory.admin_key_path),
            gateway_port=_default_or_free(_GATEWAY_PORT) if gateway_port is None else gateway_port,
            prometheus=_prometheus(prometheus_port, settings, directory),
        )
        repository = ModelRepository(settings.repository_dir)
        try:
            fleet = Fleet(plan, RestartPolicy())
            with fleet as state:
                _announce(state, repository, directory)
                fleet.watch()
        except KeyboardInterrupt:
            click.echo("stopped")


def _prometheus(port: int | None, settings: Settings, directory: RunDirectory) -> Prometheus | None:
    program = find_prometheus()
    if program is None or port == 0:
        return None
    if port is None:
        # Debian's package runs a Prometheus on the default port.
        port = _default_or_free(_PROMETHEUS_PORT)
    configuration = settings.project_dir / "deploy" / "prometheus"
    return Prometheus(program, configuration, directory.path / "prometheus", f"{LOOPBACK}:{port}")


def _default_or_free(port: int) -> int:
    return port if is_free(port) else free_ports(1)[0]


def _log_to(directory: RunDirectory) -> None:
    """Text on the terminal, JSON in the file."""
    file = logging.handlers.RotatingFileHandler(directory.path / "serve.log", maxBytes=5 * 1024**2, backupCount=1)
    file.setFormatter(JsonFormatter())
    terminal = logging.StreamHandler()
    terminal.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("trireme")
    log.setLevel(logging.INFO)
    for handler in (file, terminal):
        log.addHandler(handler)


def _clean_up(directory: RunDirectory) -> None:
    """Remove what a killed ``trireme serve`` may have left: a frozen server, stubs, shared memory."""
    for pid in remove_leftovers():
        logging.getLogger(__name__).warning("ended pid %d, left by a killed trireme serve", pid)
    directory.clear()


def _announce(state: ServingState, repository: ModelRepository, directory: RunDirectory) -> None:
    problems = state.replicas[0].problems
    click.echo(
        f"ready: {len(state.replicas)} replica{'s' if len(state.replicas) > 1 else ''} behind Envoy, each with "
        f"{len(problems)} models that pass their golden samples"
    )
    if state.tls_grpc_address:
        click.echo(f"  gRPC     {state.tls_grpc_address}, with TLS")
        click.echo(f"  HTTP     https://{state.tls_http_address}")
        click.echo(f"  on this machine without TLS: {state.grpc_address}, http://{state.http_address}")
    else:
        click.echo(f"  gRPC     {state.grpc_address}")
        click.echo(f"  HTTP     http://{state.http_address}")
    if state.gateway_address:
        click.echo(f"  OpenAI   http://{state.gateway_address}/v1")
    click.echo(f"  Envoy    http://{state.envoy_admin_address} (statistics)")
    if state.prometheus_address:
        click.echo(f"  graphs   http://{state.prometheus_address} (Prometheus)")
    for replica in state.replicas:
        click.echo(f"  replica  {replica.name}, zone {replica.zone}: metrics http://{replica.metrics_address}/metrics")
    click.echo(f"  logs     {directory.path / 'serve.log'}, {directory.path / 'replicas'}, {directory.path / 'envoy'}")
    click.echo(f"  admin    key in {directory.admin_key_path}")
    tasks = [task for task in find_tasks(repository) if task.variants and task.variants[0].model in problems]
    if tasks:
        model = tasks[0].variants[0].model
        body = '{"inputs":[{"name":"TEXT","datatype":"BYTES","shape":[1,1],"data":["The food was great."]}]}'
        click.echo(f"try:\n  trireme ask {tasks[0].name} 'The food was great.'")
        click.echo(f"  curl -s http://{state.http_address}/v2/models/{model}/infer -d '{body}'")
    click.echo(f"stop: Ctrl-C, or kill {os.getpid()}")
