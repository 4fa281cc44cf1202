"""``trireme recover``: finish or undo what a killed command left; every other verb of a release does it first too."""

from __future__ import annotations

import click

from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
def recover() -> None:
    """Finish or undo releases that were cut off, and close canaries whose controllers are gone."""
    with open_workspace(Settings.from_environment(), "recover", click.echo) as workspace:
        if not workspace.recovered and not workspace.closed_canaries:
            click.echo("nothing was cut off")
