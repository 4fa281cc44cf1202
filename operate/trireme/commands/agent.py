"""``trireme agent``: reports the readiness of one tritonserver, and heals it."""

from __future__ import annotations

import logging
from pathlib import Path

import click
from trireme_client import OperatorClient

from trireme.agent.app import AgentServer, DrainPolicy, make_app
from trireme.agent.metrics import AgentMetrics
from trireme.agent.watch import AgentPolicy, AgentWatch
from trireme.errors import TriremeError
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings
from trireme.structured_log import JsonFormatter


@click.command(context_settings={"auto_envvar_prefix": "TRIREME_AGENT"})
@click.option("--replica", required=True, show_envvar=True, help="Name of the replica.")
@click.option("--zone", default="", show_envvar=True, help="Zone of the replica.")
@click.option(
    "--grpc-address",
    default="127.0.0.1:8001",
    show_default=True,
    show_envvar=True,
    help="gRPC address of the tritonserver.",
)
@click.option(
    "--metrics-address",
    default="127.0.0.1:8002",
    show_default=True,
    show_envvar=True,
    help="Metrics address of the tritonserver.",
)
@click.option(
    "--listen",
    default="127.0.0.1:8003",
    show_default=True,
    show_envvar=True,
    help="HOST:PORT of the agent's endpoints.",
)
@click.option(
    "--admin-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    show_envvar=True,
    help="File with the key of the server's control API. Without it, no model can be reloaded.",
)
@click.option(
    "--server-pid-file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_envvar=True,
    help="File with the server's process id, if the agent can see its processes. Dead stubs are then detected at once.",
)
def agent(
    replica: str,
    zone: str,
    grpc_address: str,
    metrics_address: str,
    listen: str,
    admin_key_file: Path | None,
    server_pid_file: Path | None,
) -> None:
    """Watch one tritonserver, and serve its state at /readyz, /livez and /metrics.

    Ready means that golden samples of the routes were answered correctly within the last seconds. On SIGTERM the agent
    reports not ready, waits for requests in flight, and exits.
    """
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit():
        raise click.BadParameter(f"is {listen!r}; it must be host:port", param_hint="--listen")
    _log(replica, zone)
    metrics = AgentMetrics()
    repository = ModelRepository(Settings.from_environment().repository_dir)
    with OperatorClient(grpc_address, _admin_key(admin_key_file)) as client:
        watch = AgentWatch(client, metrics_address, repository, metrics, AgentPolicy(), server_pid_file)
        watch.start()
        AgentServer(make_app(watch, metrics), watch, host, int(port), metrics_address, DrainPolicy()).run()
        watch.stop()


def _admin_key(path: Path | None) -> str | None:
    try:
        return path.read_text().strip() if path else None
    except OSError as error:
        raise TriremeError(f"{path}: cannot be read ({error.strerror}); make it readable for this user") from None


def _log(replica: str, zone: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(replica=replica, zone=zone))
    log = logging.getLogger("trireme")
    log.setLevel(logging.INFO)
    log.addHandler(handler)
