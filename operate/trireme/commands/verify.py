"""``trireme verify``: hash the repository's versions again, and hold them against what they were."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from trireme.files import json_text
from trireme.release.integrity import VersionCheck, verify_versions
from trireme.release.workspace import journal_of
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings


@click.command()
@click.argument("models", metavar="[MODEL]...", nargs=-1)
@click.option("--public-key", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="PEM of an Ed25519 key that must have signed each manifest (manifest.json.sig).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def verify(models: tuple[str, ...], public_key: Path | None, as_json: bool) -> int:
    """Check that every file of every version is what its manifest and its publication say.

    Exit code 1 when one is not.
    """
    settings = Settings.from_environment()
    repository = ModelRepository(settings.repository_dir)
    folders = [repository.model(name) for name in models] if models else repository.models()
    checks = verify_versions(folders, journal_of(settings), public_key)
    passed = not any(check.problem for check in checks)
    if as_json:
        click.echo(json_text({"passed": passed, "versions": [asdict(check) for check in checks]}))
    else:
        for check in checks:
            click.echo(f"{check.model}/{check.version}: {check.problem or _whole(check)}")
    return 0 if passed else 1


def _whole(check: VersionCheck) -> str:
    return f"whole, by {check.by}" if check.by else "neither manifest nor publication to hold it against"
