"""``trireme restart``: restarts every replica in turn, while requests come."""

from __future__ import annotations

import click

from trireme.errors import ServerError
from trireme.serving.run_state import RunDirectory
from trireme.settings import Settings


@click.command()
def restart() -> None:
    """Restart the replicas of trireme serve in turn; the others answer meanwhile."""
    directory = RunDirectory(Settings.from_environment().run_dir)
    if len(directory.running().replicas) < 2:
        raise ServerError("one replica cannot be restarted while requests come; first: trireme scale 2")
    state = directory.execute(restart=True)
    click.echo(", ".join(f"{replica.name} in zone {replica.zone}" for replica in state.replicas))
