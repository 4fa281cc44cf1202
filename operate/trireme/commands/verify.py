"""``trireme verify``: hash the repository's versions and compare them with manifests and publications."""

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
              help="PEM file of the Ed25519 key that must have signed each manifest (manifest.json.sig).")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(models: tuple[str, ...], public_key: Path | None, as_json: bool) -> int:
    """Compare every file of each version of MODEL, by default of all models, with its manifest and publication.

    Exit code 1 if one differs.
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
            click.echo(f"{check.model}/{check.version}: {check.problem or _intact(check)}")
    return 0 if passed else 1


def _intact(check: VersionCheck) -> str:
    return f"intact ({check.by})" if check.by else "not checked: no manifest and no publication"
