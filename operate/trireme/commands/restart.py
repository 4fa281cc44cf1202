"""``trireme restart``: restart every replica in turn, without losing requests."""

from __future__ import annotations

import click

from trireme.errors import ServerError
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings


@click.command()
def restart() -> None:
    """Restart the replicas of trireme serve in turn, while the others serve."""
    directory = RunDirectory(Settings.from_environment().run_dir)
    if len(directory.running().replicas) < 2:
        raise ServerError("a single replica cannot be restarted without downtime; run first: trireme scale 2")
    state = directory.execute(restart=True)
    click.echo(", ".join(f"{replica.name} in zone {replica.zone}" for replica in state.replicas))
