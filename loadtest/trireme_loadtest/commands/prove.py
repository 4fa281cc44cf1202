"""``trireme prove``: verify the project's guarantees on this machine."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path

import click
from trireme.files import write_json_atomic
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings


@click.group()
def prove() -> None:
    """Verify guarantees on this machine and write a certificate."""


@prove.command()
@click.option("--rps", default=200.0, show_default=True, type=click.FloatRange(min=4), help="Requests per second.")
@click.option(
    "--cycles", default=20, show_default=True, type=click.IntRange(min=1), help="Number of versions to release."
)
@click.option("--output", default="rollout-certificate.json", show_default=True,
              type=click.Path(dir_okay=False, path_type=Path), help="File for the certificate.")  # fmt: skip
def rollout(rps: float, cycles: int, output: Path) -> int:
    """Publish, canary, promote and roll back good, slow, wrong and crashing versions under load.

    Uses its own server with a copy of the repository. Exit code 1 if a request failed, or if a version responded more
    than a second after its rollback.
    """
    from trireme_loadtest.prove.rollout import prove_rollout
    from trireme_loadtest.prove.served_copy import ServedCopy

    settings = Settings.from_environment()
    # Next to the runtime, where the weights can most likely be linked instead of copied.
    settings.state_dir.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="prove-", dir=settings.state_dir, ignore_cleanup_errors=True) as directory,
        ServedCopy(Path(directory), settings.repository_dir) as served,
    ):
        certificate = prove_rollout(served, rps, cycles, click.echo)
    write_json_atomic(output, asdict(certificate))
    for problem in certificate.problems:
        click.echo(problem)
    verdict = "passed" if certificate.passed else "not passed"
    requests, failures = sum(certificate.requests.values()), sum(certificate.failures.values())
    click.echo(f"{verdict}: {requests} requests, {failures} failed; {output}")
    return 0 if certificate.passed else 1


@prove.command()
@click.argument("kind", type=click.Choice(["good", "slow", "wrong", "crashing"]))
@click.argument("target", type=click.Path(exists=False, path_type=Path))
def version(kind: str, target: Path) -> None:
    """Create a practice version of embedding_economy_encoder in TARGET, as input of `trireme publish`."""
    from trireme_loadtest.prove.rollout import ENCODER
    from trireme_loadtest.prove.versions import VersionKind, make_version

    origin = ModelRepository(Settings.from_environment().repository_dir).model(ENCODER).version_dir(1)
    make_version(origin, target, VersionKind(kind), mark=1)
