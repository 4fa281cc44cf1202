"""``trireme rollback``: a variant back to what it was; milliseconds, since the old version is still loaded."""

from __future__ import annotations

import click

from trireme.release.plans import plan_rollback, read_pins
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("variant")
@click.option(
    "--to", "wanted", multiple=True, metavar="[MODEL=]VERSION", help="Back to before its last promotion if left out."
)
@click.option("--note", default="", help="Why, for the history.")
@click.option("--actor", help="Who, for the history; the user of this shell if left out.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
def rollback(variant: str, wanted: tuple[str, ...], note: str, actor: str | None, dry_run: bool) -> None:
    """Take VARIANT's traffic off its canary, and pin it back."""
    with open_workspace(Settings.from_environment(), "rollback", click.echo, close_abandoned=False) as workspace:
        pins = read_pins(workspace.repository, variant, wanted) or None
        plan = plan_rollback(workspace.repository, workspace.journal, variant, pins)
        if dry_run:
            click.echo(plan.describe())
            return
        workspace.carry_out(plan, actor=actor, note=note)
