"""``trireme doctor``: check this machine, and print the fix for each problem."""

from __future__ import annotations

import click

from trireme.doctor import CheckStatus, examine
from trireme.files import json_text
from trireme.settings import Settings


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the checks as JSON.")
def doctor(as_json: bool) -> int:
    """Check that this machine can serve, and print the command that fixes each problem.

    Exit code 1 if a problem prevents serving.
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
