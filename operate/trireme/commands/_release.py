"""Shared by the release commands: options, and printing or executing a plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from trireme.files import json_text
from trireme.release.engine import Plan
from trireme.release.workspace import Workspace

_Command = TypeVar("_Command", bound=Callable[..., Any])


def plan_options(command: _Command) -> _Command:
    command = click.option("--json", "as_json", is_flag=True, help="Print JSON; progress goes to stderr.")(command)
    return click.option("--dry-run", is_flag=True, help="Print the plan and change nothing.")(command)


def history_options(command: _Command) -> _Command:
    command = click.option("--actor", help="Name recorded in the history.  [default: the current user]")(command)
    return click.option("--note", default="", help="Reason, recorded in the history.")(command)


def progress(as_json: bool) -> Callable[[str], None]:
    return lambda line: click.echo(line, err=as_json)


def run_plan(
    workspace: Workspace, plan: Plan, *, dry_run: bool, as_json: bool, actor: str | None = None, note: str = ""
) -> None:
    """Print the plan or execute it; with ``as_json``, stdout is one JSON document."""
    shown: dict[str, Any] = plan.to_json()
    if not dry_run:
        identity = workspace.carry_out(plan, actor=actor, note=note)
        (release,) = (release for release in workspace.journal.releases() if release.identity == identity)
        shown |= {"release": identity, "callers": release.reason}
    if as_json:
        click.echo(json_text(shown))
    elif dry_run:
        click.echo(plan.describe())
