"""``trireme prune``: remove old versions that nothing serves."""

from __future__ import annotations

import click

from trireme.release.plans import plan_prune
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("model")
@click.option("--keep", type=click.IntRange(min=1), required=True, help="How many of the newest versions stay.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
def prune(model: str, keep: int, dry_run: bool) -> None:
    """Remove all versions of MODEL but the newest ones and those that an ensemble pins."""
    with open_workspace(Settings.from_environment(), "prune", click.echo) as workspace:
        plan = plan_prune(workspace.repository, model, keep)
        if dry_run:
            click.echo(plan.describe())
            return
        workspace.carry_out(plan)
