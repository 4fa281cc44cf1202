"""``trireme status``: print the state of what is served."""

from __future__ import annotations

from dataclasses import asdict

import click

from trireme.files import json_text
from trireme.processes.admin_key import ensure_admin_key
from trireme.serving.run_state import RunDirectory
from trireme.serving.status import ReplicaStatus, Status, read_status
from trireme.settings import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(as_json: bool) -> int:
    """Print servers, models, requests and memory; exit code 1 unless every model is served."""
    directory = RunDirectory(Settings.from_environment().run_dir)
    state = directory.running()
    found = read_status(state, ensure_admin_key(directory.admin_key_path))
    click.echo(json_text(asdict(found)) if as_json else _as_text(found))
    return 0 if found.serving else 1


def _as_text(found: Status) -> str:
    state, memory = found.state, found.memory
    lines = [
        f"{state.phase.value}, pid {state.pid}, up {_duration(found.uptime_seconds)}, {len(found.replicas)} replicas",
        f"gRPC {state.grpc_address}, HTTP {state.http_address}, Envoy's statistics http://{state.envoy_admin_address}",
        *([f"with TLS {state.tls_grpc_address}, https://{state.tls_http_address}"] if state.tls_grpc_address else []),
        *([f"OpenAI http://{state.gateway_address}/v1"] if state.gateway_address else []),
        *([f"Prometheus http://{state.prometheus_address}"] if state.prometheus_address else []),
        f"memory {memory.total_mib:.0f} MiB: tritonserver {memory.servers_mib:.0f}, "
        f"{memory.stub_count} Python stubs {memory.stubs_mib:.0f}, other {memory.others_mib:.0f}",
    ]
    for status in found.replicas:
        lines += ["", *_replica_lines(status)]
    lines += [f"skipped: {name}: {reason}" for name, reason in state.left_out.items()]
    return "\n".join(lines)


def _replica_lines(status: ReplicaStatus) -> list[str]:
    replica = status.replica
    lines = [
        f"replica {replica.name}, zone {replica.zone}: {replica.phase.value}, tritonserver "
        f"{replica.server_pid or 'not running'}, {replica.restarts} restarts, {replica.heals} models reloaded, "
        f"metrics http://{replica.metrics_address}/metrics",
    ]
    if replica.last_fault:
        lines.append(f"last fault: {replica.last_fault}")
    width = max([len(model.name) for model in status.models], default=5)
    lines.append(f"{'model':{width}}  versions  state      answered  failed")
    for model in status.models:
        versions = ",".join(model.versions) or "-"
        state = "ready" if model.ready else "NOT READY"
        lines.append(f"{model.name:{width}}  {versions:8}  {state:9}  {model.succeeded:8}  {model.failed:6}")
    return lines + [f"{model.name}: {model.problem}" for model in status.models if model.problem]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
