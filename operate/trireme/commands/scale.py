"""``trireme scale``: add or remove replicas without losing requests."""

from __future__ import annotations

import click

from trireme.commands.serve import MAX_REPLICAS
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings


@click.command()
@click.argument("replicas", type=click.IntRange(1, MAX_REPLICAS))
def scale(replicas: int) -> None:
    """Set the number of replicas of trireme serve to REPLICAS.

    A new replica gets requests once it is ready; a removed one finishes its requests first.
    """
    state = RunDirectory(Settings.from_environment().run_dir).execute(replicas=replicas)
    click.echo(", ".join(f"{replica.name} in zone {replica.zone}" for replica in state.replicas))
