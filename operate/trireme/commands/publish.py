"""``trireme publish``: check a new version of a model and add it beside the current ones."""

from __future__ import annotations

from pathlib import Path

import click

from trireme.commands._release import history_options, plan_options, progress, run_plan
from trireme.release.plans import plan_publish
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("model")
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--version", help="Version number.  [default: next free]")
@history_options
@plan_options
def publish(
    model: str, path: Path, version: str | None, note: str, actor: str | None, dry_run: bool, as_json: bool
) -> None:
    """Publish the files in PATH as a new version of MODEL.

    If no ensemble pins MODEL, the version stays unloaded until `trireme promote MODEL`, and no caller moves. Otherwise
    it is loaded, for `trireme canary` and `trireme promote` of the ensemble; callers of MODEL without a version and
    ensembles at model_version -1 get it at once, as the plan shows.
    """
    with open_workspace(Settings.from_environment(), "publish", progress(as_json)) as workspace:
        plan = plan_publish(workspace.repository, model, path, version)
        run_plan(workspace, plan, dry_run=dry_run, as_json=as_json, actor=actor, note=note)
