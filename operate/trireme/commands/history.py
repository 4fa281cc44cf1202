"""``trireme history``: list releases with who, when, why and the outcome."""

from __future__ import annotations

import time
from dataclasses import asdict

import click

from trireme.files import json_text
from trireme.release.journal import Release
from trireme.release.workspace import journal_of
from trireme.settings import Settings


@click.command()
@click.argument("subject", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def history(subject: str | None, as_json: bool) -> None:
    """List the releases of all models and variants, or of SUBJECT, oldest first."""
    found = [r for r in journal_of(Settings.from_environment()).releases() if subject in (None, r.subject)]
    if as_json:
        click.echo(json_text([asdict(release) for release in found]))
        return
    for release in found:
        click.echo(_as_line(release))
    if not found:
        click.echo("no releases")


def _as_line(release: Release) -> str:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(release.started_at))
    outcome = release.outcome.value if release.outcome else "interrupted"
    why = "; ".join(part for part in (release.note, *release.remarks, release.reason) if part)
    return f"{when}  {release.verb:8}  {release.subject:30}  {outcome:11}  {release.actor:10}  {why}".rstrip()
