"""``trireme demo``: asks every task and variant a real question on the real server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from trireme.demonstration import Demonstration, demonstrate
from trireme.errors import ServerError
from trireme.loading import plan_loading
from trireme.questions import reason_in_short
from trireme.repository import ModelRepository
from trireme.run_state import RunDirectory
from trireme.server import ServerFlags, TritonServer
from trireme.settings import Settings
from trireme.triton_client import TritonClient
from trireme.variants import find_tasks

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
    with _server(settings, repository) as grpc_address, TritonClient(grpc_address) as client:
        for task in tasks:
            click.echo(f"\n{task.name}")
            click.echo(_row(*(heading for heading, _ in _COLUMNS)))
            for shown in demonstrate(client, repository, task):
                asked += 1
                wrong += bool(shown.problems)
                click.echo(_as_row(shown))
    click.echo(f"\n{asked} questions, {asked - wrong} answered rightly, {wrong} not")
    return 1 if wrong else 0


@contextlib.contextmanager
def _server(settings: Settings, repository: ModelRepository) -> Iterator[str]:
    """The gRPC address of the server that ``trireme serve`` runs, or of one started for the demo."""
    directory = RunDirectory(settings.run_dir)
    if directory.is_held():
        address = directory.running().grpc_address
        click.echo(f"asking the server that trireme serve runs, at {address}")
        yield address
        return
    plan = plan_loading(repository)
    for name, reason in {**plan.broken, **plan.left_out}.items():
        click.echo(f"left out: {name}: {reason}", err=True)
    click.echo(f"starting tritonserver with {len(plan.models)} models")
    flags = ServerFlags(repository.path, load_models=plan.models, exit_on_error=False)
    with TritonServer.start(flags) as server:
        yield server.grpc_address


def _as_row(shown: Demonstration) -> str:
    answer = shown.answer
    if answer is None:
        return _row(shown.asked, shown.question, "none", shown.expected, "", "", f"WRONG: {shown.problems[0]}")
    verdict = f"WRONG: {shown.problems[0]}" if shown.problems else "right"
    if answer.reason:
        verdict += f" ({reason_in_short(answer.reason)})"
    by = f"{answer.variant} v{answer.version}"
    return _row(shown.asked, shown.question, answer.answer, shown.expected, by, f"{answer.latency_ms:.1f}", verdict)


def _row(*cells: str) -> str:
    padded = []
    for cell, (_, width) in zip(cells, _COLUMNS, strict=True):
        cut = cell if not width or len(cell) <= width else f"{cell[: width - 1]}…"
        padded.append(f"{cut:{width}}" if width else cut)
    return "  ".join(padded).rstrip()
