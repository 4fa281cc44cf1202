"""``trireme watch``: publish what is dropped into a folder, once it is complete."""

from __future__ import annotations

import time
from pathlib import Path

import click

from trireme.errors import describe
from trireme.release.inbox import Inbox
from trireme.release.plans import plan_publish
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--interval-seconds", default=2.0, show_default=True, help="Between two looks.")
@click.option("--once", is_flag=True, help="Look twice, publish what is complete, and end.")
@click.option("--actor", help="Who, for the history; the user of this shell if left out.")
def watch(directory: Path, interval_seconds: float, once: bool, actor: str | None) -> int:
    """Publish each DIRECTORY/<model>/ as a new version of that model.

    It is complete when it holds a file `.done`, or when its manifest says so and it stays as it is between two looks.
    With --once the exit code is 1 when a version was refused.
    """
    settings = Settings.from_environment()

    def publish(model: str, source: Path) -> None:
        with open_workspace(settings, "watch", click.echo) as workspace:
            plan = plan_publish(workspace.repository, model, source)
            workspace.carry_out(plan, actor=actor, note=f"dropped into {directory}")

    inbox = Inbox(directory, publish, click.echo)
    refused = _scan(inbox)
    while True:
        time.sleep(interval_seconds)
        refused += _scan(inbox)
        if once:
            return 1 if refused else 0


def _scan(inbox: Inbox) -> int:
    try:
        return inbox.scan()
    except Exception as error:
        # A folder that vanished, a disk that is full: the next look may go well.
        click.echo(f"{inbox.path}: {describe(error)}")
        return 1
