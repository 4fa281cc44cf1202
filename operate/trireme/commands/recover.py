"""``trireme recover``: finish or undo what a killed command left; every other verb of a release does it first too."""

from __future__ import annotations

import click

from trireme.release.journal import Outcome
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
def recover() -> int:
    """Finish or undo releases that were cut off, and close canaries whose controllers are gone.

    Exit code 1 when one was finished and callers do not get what it was to achieve.
    """
    with open_workspace(Settings.from_environment(), "recover", click.echo) as workspace:
        if not workspace.recovered and not workspace.closed_canaries:
            click.echo("nothing was cut off")
        return 1 if any(release.outcome is Outcome.FAILED for release in workspace.recovered) else 0
