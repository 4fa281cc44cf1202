"""``trireme recover``: finish or undo interrupted releases; every other release command does this first."""

from __future__ import annotations

import click

from trireme.release.journal import Outcome
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
def recover() -> int:
    """Finish or undo interrupted releases, and close canaries whose controllers are dead.

    Exit code 1 if a release was finished but callers do not get the expected versions.
    """
    with open_workspace(Settings.from_environment(), "recover", click.echo) as workspace:
        if not workspace.recovered and not workspace.closed_canaries:
            click.echo("nothing to recover")
        return 1 if any(release.outcome is Outcome.FAILED for release in workspace.recovered) else 0
