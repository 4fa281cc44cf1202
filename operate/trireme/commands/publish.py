"""``trireme publish``: a new version of a model, checked, and loaded beside those that serve."""

from __future__ import annotations

from pathlib import Path

import click

from trireme.release.plans import plan_publish
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("model")
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--version", help="Its number; the next free one if left out.")
@click.option("--note", default="", help="Why, for the history.")
@click.option("--actor", help="Who, for the history; the user of this shell if left out.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
def publish(model: str, path: Path, version: str | None, note: str, actor: str | None, dry_run: bool) -> None:
    """Publish the files in PATH as a new version of MODEL.

    Nobody is moved to it: ensembles are pinned to versions. `trireme promote` moves a variant.
    """
    with open_workspace(Settings.from_environment(), "publish", click.echo) as workspace:
        plan = plan_publish(workspace.repository, model, path, version)
        if dry_run:
            click.echo(plan.describe())
            return
        workspace.carry_out(plan, actor=actor, note=note)
