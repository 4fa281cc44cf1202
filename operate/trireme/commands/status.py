"""``trireme status``: what is being served, and how well."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from trireme.admin_key import ensure_admin_key
from trireme.run_state import RunDirectory
from trireme.settings import Settings
from trireme.status import Status, read_status


@click.command()
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def status(as_json: bool) -> int:
    """Show server, models, requests and memory; exit code 1 unless every model is served."""
    directory = RunDirectory(Settings.from_environment().run_dir)
    state = directory.running()
    found = read_status(state, ensure_admin_key(directory.admin_key_path))
    click.echo(json.dumps(asdict(found), indent=2) if as_json else _as_text(found))
    return 0 if found.serving else 1


def _as_text(found: Status) -> str:
    memory = found.memory
    lines = [
        f"{found.phase.value}, pid {found.pid}, tritonserver {found.server_pid or 'not running'}, "
        f"up {_duration(found.uptime_seconds)}, {found.restarts} restarts, {found.heals} models reloaded",
        f"gRPC {found.grpc_address}, HTTP {found.http_address}, metrics {found.metrics_address}",
        f"memory {memory.total_mib:.0f} MiB: tritonserver {memory.server_mib:.0f}, "
        f"{memory.stub_count} Python stubs {memory.stubs_mib:.0f}, trireme {memory.supervisor_mib:.0f}",
    ]
    if found.last_fault:
        lines.append(f"last fault: {found.last_fault}")
    width = max([len(model.name) for model in found.models], default=5)
    lines.append(f"{'model':{width}}  versions  state      answered  failed")
    for model in found.models:
        versions = ",".join(model.versions) or "-"
        state = "ready" if model.ready else "NOT READY"
        lines.append(f"{model.name:{width}}  {versions:8}  {state:9}  {model.succeeded:8}  {model.failed:6}")
    lines += [f"{model.name}: {model.problem}" for model in found.models if model.problem]
    lines += [f"left out: {name}: {reason}" for name, reason in found.left_out.items()]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole} s"
