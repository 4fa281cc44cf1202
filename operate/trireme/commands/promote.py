"""``trireme promote``: move a variant to newer versions of its models."""

from __future__ import annotations

import click

from trireme.release.plans import newest_pins, plan_promote, read_pins
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("variant")
@click.option("--to", "wanted", multiple=True, metavar="[MODEL=]VERSION", help="The newest loaded ones if left out.")
@click.option("--note", default="", help="Why, for the history.")
@click.option("--actor", help="Who, for the history; the user of this shell if left out.")
@click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")
def promote(variant: str, wanted: tuple[str, ...], note: str, actor: str | None, dry_run: bool) -> None:
    """Pin VARIANT to loaded versions of the models it calls, for all its callers at once."""
    with open_workspace(Settings.from_environment(), "promote", click.echo, close_abandoned=False) as workspace:
        pins = read_pins(workspace.repository, variant, wanted) or newest_pins(workspace.repository, variant)
        plan = plan_promote(workspace.repository, variant, pins)
        if dry_run:
            click.echo(plan.describe())
            return
        workspace.carry_out(plan, actor=actor, note=note)
