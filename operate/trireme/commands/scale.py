"""``trireme scale``: more or fewer replicas, while requests come."""

from __future__ import annotations

import click

from trireme.commands.serve import MOST_REPLICAS
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings


@click.command()
@click.argument("replicas", type=click.IntRange(1, MOST_REPLICAS))
def scale(replicas: int) -> None:
    """Have trireme serve run REPLICAS replicas.

    A new one gets requests when it is ready; one that goes lets its requests be answered first.
    """
    state = RunDirectory(Settings.from_environment().run_dir).execute(replicas=replicas)
    click.echo(", ".join(f"{replica.name} in zone {replica.zone}" for replica in state.replicas))
