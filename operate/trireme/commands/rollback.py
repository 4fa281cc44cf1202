"""``trireme rollback``: move callers back within milliseconds, since the old version is still loaded."""

from __future__ import annotations

import click

from trireme.commands._release import history_options, plan_options, progress, run_plan
from trireme.release.pins import wanted_pins
from trireme.release.plans import plan_rollback
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("name")
@click.option(
    "--to",
    "wanted",
    multiple=True,
    metavar="[MODEL=]VERSION",
    help="Target version; repeatable.  [default: before the last promotion]",
)
@history_options
@plan_options
def rollback(name: str, wanted: tuple[str, ...], note: str, actor: str | None, dry_run: bool, as_json: bool) -> None:
    """Move the callers of NAME, an ensemble or a model, back; abort the canary of an ensemble that has one."""
    settings = Settings.from_environment()
    with open_workspace(settings, "rollback", progress(as_json), close_abandoned=False) as workspace:
        pins = wanted_pins(workspace.repository, name, wanted, "rollback") if wanted else None
        plan = plan_rollback(workspace.repository, workspace.journal, name, pins)
        run_plan(workspace, plan, dry_run=dry_run, as_json=as_json, actor=actor, note=note)
