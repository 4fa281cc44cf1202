"""``trireme demo``: send real requests to every task and variant."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
from trireme_client import ClientError, OperatorClient

from trireme.errors import ServerError
from trireme.inference.demonstration import Chat, Demonstration, chats, demonstrate
from trireme.inference.text_request import short_reason
from trireme.processes.admin_key import ensure_admin_key
from trireme.processes.ports import free_ports
from trireme.processes.runtime import EmbeddedRuntime
from trireme.repository.folders import ModelRepository
from trireme.repository.tasks import find_tasks
from trireme.serving.envoy.proxy_config import ProxyConfig
from trireme.serving.fleet import Fleet, FleetPlan
from trireme.serving.replica import RestartPolicy
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings

_REPLICAS = 2
_ZONES = ("a", "b")

# Heading and width of each column; the last has no fixed width.
_COLUMNS = (("target", 30), ("text", 28), ("response", 28), ("expected", 28), ("served by", 22), ("ms", 6), ("", 0))


@click.command()
def demo() -> int:
    """Send requests to every variant of every task, and print the actual and expected responses.

    Exit code 1 if a response is wrong.
    """
    settings = Settings.from_environment()
    repository = ModelRepository(settings.repository_dir)
    tasks = [task for task in find_tasks(repository) if task.variants]
    if not tasks:
        raise ServerError(
            f'{repository.path}: no model has the parameter "task"; add it to the config.pbtxt of each variant'
        )
    sent = wrong = 0
    with _served(settings) as grpc_address, OperatorClient(grpc_address) as client:
        for task in tasks:
            click.echo(f"\n{task.name}")
            if streamed := chats(repository, task):
                sent += len(streamed)
                wrong += sum(not _stream(chat, grpc_address) for chat in streamed)
                continue
            click.echo(_row(*(heading for heading, _ in _COLUMNS)))
            for shown in demonstrate(client, repository, task):
                sent += 1
                wrong += bool(shown.problems)
                click.echo(_as_row(shown))
    click.echo(f"\n{sent} requests: {sent - wrong} correct, {wrong} wrong")
    return 1 if wrong else 0


def _stream(chat: Chat, grpc_address: str) -> bool:
    """Print a chat's response as it streams, and return whether it is correct."""
    click.echo(f"{chat.text}\n  ", nl=False)
    text, began, first_ms, by = "", time.perf_counter(), 0.0, ""
    try:
        for chunk in chat.stream(grpc_address):
            first_ms = first_ms or (time.perf_counter() - began) * 1000
            text, by = text + chunk.text, f"{chunk.model}, version {chunk.version}, {short_reason(chunk.reason)}"
            click.echo(chunk.text, nl=False)
    except ClientError as error:
        click.echo(f"wrong: {error.problem}")
        return False
    total_ms = (time.perf_counter() - began) * 1000
    correct = text == chat.expected
    verdict = "correct" if correct else f"wrong: expected {chat.expected!r}"
    click.echo(f"\n  by {by}; first token {first_ms:.0f} ms, total {total_ms:.0f} ms; {verdict}")
    return correct


@contextlib.contextmanager
def _served(settings: Settings) -> Iterator[str]:
    """The gRPC address of the running ``trireme serve``, or of replicas started for the demo."""
    directory = RunDirectory(settings.run_dir)
    if directory.is_held():
        address = directory.running().grpc_address
        click.echo(f"using trireme serve at {address}")
        yield address
        return
    with (
        tempfile.TemporaryDirectory(prefix="trireme-demo-") as folder,
        Fleet(_plan(settings, RunDirectory(Path(folder))), RestartPolicy()) as state,
    ):
        yield state.grpc_address


def _plan(settings: Settings, directory: RunDirectory) -> FleetPlan:
    click.echo(f"starting {_REPLICAS} replicas in {len(_ZONES)} zones behind Envoy")
    grpc_port, http_port, admin_port = free_ports(3)
    return FleetPlan(
        settings=settings,
        directory=directory,
        runtime=EmbeddedRuntime.find(settings),
        replicas=_REPLICAS,
        zones=_ZONES,
        proxy=ProxyConfig(grpc_port, http_port, admin_port),
        metrics_port=0,
        admin_key=ensure_admin_key(directory.admin_key_path),
    )


def _as_row(shown: Demonstration) -> str:
    response = shown.response
    if response is None:
        return _row(shown.target, shown.text, "none", shown.expected, "", "", f"WRONG: {shown.problems[0]}")
    verdict = f"WRONG: {shown.problems[0]}" if shown.problems else "correct"
    if response.reason:
        verdict += f" ({short_reason(response.reason)})"
    by = f"{response.variant} v{response.version}"
    return _row(shown.target, shown.text, response.answer, shown.expected, by, f"{response.latency_ms:.1f}", verdict)


def _row(*cells: str) -> str:
    padded = []
    for cell, (_, width) in zip(cells, _COLUMNS, strict=True):
        cut = cell if not width or len(cell) <= width else f"{cell[: width - 1]}…"
        padded.append(f"{cut:{width}}" if width else cut)
    return "  ".join(padded).rstrip()
