"""``trireme watch``: publish the versions that appear in a directory."""

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
@click.option("--interval-seconds", default=2.0, show_default=True, help="Seconds between scans.")
@click.option("--once", is_flag=True, help="Scan twice, publish what is complete, and exit.")
@click.option("--actor", help="Name recorded in the history.  [default: the current user]")
def watch(directory: Path, interval_seconds: float, once: bool, actor: str | None) -> int:
    """Publish each DIRECTORY/<model>/ as a new version of that model.

    A version is complete when it contains a file `.done`, or when its manifest verifies and it does not change between
    two scans. With --once, exit code 1 if a version was rejected.
    """
    settings = Settings.from_environment()

    def publish(model: str, source: Path) -> None:
        with open_workspace(settings, "watch", click.echo) as workspace:
            plan = plan_publish(workspace.repository, model, source)
            workspace.carry_out(plan, actor=actor, note=f"dropped into {directory}")

    inbox = Inbox(directory, publish, click.echo)
    rejected = _scan(inbox)
    while True:
        time.sleep(interval_seconds)
        rejected += _scan(inbox)
        if once:
            return 1 if rejected else 0


def _scan(inbox: Inbox) -> int:
    try:
        return inbox.scan()
    except Exception as error:
        # A folder that vanished, a full disk: the next scan may succeed.
        click.echo(f"{inbox.path}: {describe(error)}")
        return 1
