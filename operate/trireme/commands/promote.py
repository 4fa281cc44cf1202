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
@click.option(
    "--to", "wanted", multiple=True, metavar="[MODEL=]VERSION", help="Target version; repeatable.  [default: newest]"
)
@history_options
@plan_options
def promote(name: str, wanted: tuple[str, ...], note: str, actor: str | None, dry_run: bool, as_json: bool) -> None:
    """Move all callers of NAME, an ensemble or a model, to newer versions at once.

    An ensemble is pinned to loaded versions of its models. A model's version is loaded: callers without a version and
    ensembles at model_version -1 get it, and the previous version stays loaded.
    """
    settings = Settings.from_environment()
    with open_workspace(settings, "promote", progress(as_json), close_abandoned=False) as workspace:
        plan = plan_promote(workspace.repository, name, wanted_pins(workspace.repository, name, wanted, "promote"))
        run_plan(workspace, plan, dry_run=dry_run, as_json=as_json, actor=actor, note=note)
