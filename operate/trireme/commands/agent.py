"""``trireme agent``: says whether one tritonserver may get requests, and heals it."""

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
@click.option("--replica", required=True, show_envvar=True, help="Its name.")
@click.option("--zone", default="", show_envvar=True, help="Its zone.")
@click.option("--grpc-address", default="127.0.0.1:8001", show_default=True, show_envvar=True, help="Its tritonserver.")
@click.option("--metrics-address", default="127.0.0.1:8002", show_default=True, show_envvar=True, help="Its metrics.")
@click.option("--listen", default="127.0.0.1:8003", show_default=True, show_envvar=True, help="Host and port.")
@click.option(
    "--admin-key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    show_envvar=True,
    help="The key of the server's control API: without it nothing can be healed.",
)
@click.option(
    "--server-pid-file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_envvar=True,
    help="Names the server's process, where it can be seen from here: dead stubs are then noticed at once.",
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
    """Watch one tritonserver: /readyz, /livez and /metrics say how it is.

    Ready means that golden samples of the routes were answered rightly within the last seconds. SIGTERM: red first,
    then requests in flight, then the end.
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
