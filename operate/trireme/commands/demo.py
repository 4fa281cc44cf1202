"""``trireme demo``: asks every task and variant a real question on the real server."""

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

# Heading and width of the columns; the last is as wide as it needs.
_COLUMNS = (("asked", 30), ("question", 28), ("answer", 28), ("expected", 28), ("answered by", 22), ("ms", 6), ("", 0))


@click.command()
def demo() -> int:
    """Ask every variant of every task, print answer and expected answer; exit code 0 only if all are right."""
    settings = Settings.from_environment()
    repository = ModelRepository(settings.repository_dir)
    tasks = [task for task in find_tasks(repository) if task.variants]
    if not tasks:
        raise ServerError(f"no model of {repository.path} names a task in its parameters")
    asked = wrong = 0
    with _served(settings) as grpc_address, OperatorClient(grpc_address) as client:
        for task in tasks:
            click.echo(f"\n{task.name}")
            if streamed := chats(repository, task):
                asked += len(streamed)
                wrong += sum(not _is_streamed_rightly(chat, grpc_address) for chat in streamed)
                continue
            click.echo(_row(*(heading for heading, _ in _COLUMNS)))
            for shown in demonstrate(client, repository, task):
                asked += 1
                wrong += bool(shown.problems)
                click.echo(_as_row(shown))
    click.echo(f"\n{asked} questions, {asked - wrong} answered rightly, {wrong} not")
    return 1 if wrong else 0


def _is_streamed_rightly(chat: Chat, grpc_address: str) -> bool:
    """Show a chat's answer as it comes."""
    click.echo(f"{chat.question}\n  ", nl=False)
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
    right = text == chat.expected
    verdict = "right" if right else f"wrong: expected {chat.expected!r}"
    click.echo(f"\n  by {by}; first token after {first_ms:.0f} ms, all after {total_ms:.0f} ms; {verdict}")
    return right


@contextlib.contextmanager
def _served(settings: Settings) -> Iterator[str]:
    """The gRPC address of what ``trireme serve`` runs, or of replicas started for the demo."""
    directory = RunDirectory(settings.run_dir)
    if directory.is_held():
        address = directory.running().grpc_address
        click.echo(f"asking what trireme serve runs, at {address}")
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
    answer = shown.answer
    if answer is None:
        return _row(shown.target, shown.question, "none", shown.expected, "", "", f"WRONG: {shown.problems[0]}")
    verdict = f"WRONG: {shown.problems[0]}" if shown.problems else "right"
    if answer.reason:
        verdict += f" ({short_reason(answer.reason)})"
    by = f"{answer.variant} v{answer.version}"
    return _row(shown.target, shown.question, answer.answer, shown.expected, by, f"{answer.latency_ms:.1f}", verdict)


def _row(*cells: str) -> str:
    padded = []
    for cell, (_, width) in zip(cells, _COLUMNS, strict=True):
        cut = cell if not width or len(cell) <= width else f"{cell[: width - 1]}…"
        padded.append(f"{cut:{width}}" if width else cut)
    return "  ".join(padded).rstrip()
