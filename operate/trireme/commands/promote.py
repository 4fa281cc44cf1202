"""``trireme promote``: move callers to newer versions."""

from __future__ import annotations

import click

from trireme.commands._release import history_options, plan_options, progress, run_plan
from trireme.release.pins import wanted_pins
from trireme.release.plans import plan_promote
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("name")
@click.option("--to", "wanted", multiple=True, metavar="[MODEL=]VERSION", help="The newest ones by default.")
@history_options
@plan_options
def promote(name: str, wanted: tuple[str, ...], note: str, actor: str | None, dry_run: bool, as_json: bool) -> None:
    """Move all callers of NAME, an ensemble or a model, at once.

    An ensemble is pinned to loaded versions of the models it calls. Of a model the version is loaded; its callers
    without a version and ensembles at model_version -1 get it, and the version before stays loaded.
    """
    settings = Settings.from_environment()
    with open_workspace(settings, "promote", progress(as_json), close_abandoned=False) as workspace:
        plan = plan_promote(workspace.repository, name, wanted_pins(workspace.repository, name, wanted, "promote"))
        run_plan(workspace, plan, dry_run=dry_run, as_json=as_json, actor=actor, note=note)
