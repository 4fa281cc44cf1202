"""``trireme doctor``: what is missing or wrong on this machine, and what mends it."""

from __future__ import annotations

import click

from trireme.doctor import CheckStatus, examine
from trireme.files import json_text
from trireme.settings import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(as_json: bool) -> int:
    """Say what is missing or wrong for serving on this machine, and the command that mends it.

    Exit code 1 when something stops serving.
    """
    checks = []
    for check in examine(Settings.from_environment()):
        checks.append(check)
        if not as_json:
            click.echo(str(check))
    failed = any(check.status is CheckStatus.FAIL for check in checks)
    if as_json:
        click.echo(json_text({"passed": not failed, "checks": [check.as_json() for check in checks]}))
    return 1 if failed else 0
