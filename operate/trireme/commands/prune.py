"""``trireme prune``: remove old versions that are not in use."""

from __future__ import annotations

import click

from trireme.commands._release import plan_options, progress, run_plan
from trireme.release.plans import plan_prune
from trireme.release.workspace import open_workspace
from trireme.settings import Settings


@click.command()
@click.argument("model")
@click.option("--keep", type=click.IntRange(min=1), required=True, help="Number of newest versions to keep.")
@plan_options
def prune(model: str, keep: int, dry_run: bool, as_json: bool) -> None:
    """Remove all versions of MODEL except the newest, those pinned by an ensemble, and the one callers get."""
    with open_workspace(Settings.from_environment(), "prune", progress(as_json)) as workspace:
        run_plan(workspace, plan_prune(workspace.repository, model, keep), dry_run=dry_run, as_json=as_json)
