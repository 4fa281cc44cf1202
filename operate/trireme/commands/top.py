"""``trireme top``: a live view of what is served."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import click
from rich.console import Console
from rich.live import Live

from trireme.processes.server_metrics import Metrics, MetricsWindow
from trireme.repository.folders import ModelRepository
from trireme.serving.run_state import RunDirectory, ServingState
from trireme.settings import Settings
from trireme.top.frame import Frame, frame_of, steps_of
from trireme.top.view import render

_DEADLINE_SECONDS = 2.0
# Routers report their counts every half second.
_MIN_SECONDS = 1.0
_MIN_COLUMNS = 80


@click.command()
@click.option(
    "--interval",
    "interval_seconds",
    default=2.0,
    show_default=True,
    type=click.FloatRange(_MIN_SECONDS, 60.0),
    help="Seconds between frames.",
)
@click.option("--once", is_flag=True, help="Print one frame and exit; for pipes and scripts.")
def top(interval_seconds: float, once: bool) -> None:
    """Show live replicas, variants, versions, traffic, latency and queues; q quits."""
    settings = Settings.from_environment()
    directory = RunDirectory(settings.run_dir)
    frames = Frames(directory, ModelRepository(settings.repository_dir))
    directory.running()
    if once:
        frames.next()
        time.sleep(interval_seconds)
        console = Console(highlight=False)
        # A pipe has no width.
        console.width = max(console.width, _MIN_COLUMNS)
        console.print(render(frames.next()))
        return
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("not a terminal; print one frame with --once")
    with _keys(), contextlib.suppress(KeyboardInterrupt), Live(screen=True, auto_refresh=False) as live:
        live.update(render(frames.next()), refresh=True)
        while not _quits(interval_seconds):
            live.update(render(frames.next()), refresh=True)


class Frames:
    """Reads the metrics of everything that is served, frame by frame."""

    def __init__(self, directory: RunDirectory, repository: ModelRepository) -> None:
        self._directory = directory
        self._steps = steps_of(repository)
        self._before: dict[str, Metrics] = {}

    def next(self) -> Frame:
        """The activity since the last frame; the first frame shows only the current state.

        Raises:
            ServerError: nothing is being served.
        """
        state = self._directory.running()
        now = _read_all(state)
        windows = {name: MetricsWindow(self._before.get(name, Metrics(at=page.at)), page) for name, page in now.items()}
        self._before = now
        return frame_of(state, windows, self._steps)


def _read_all(state: ServingState) -> dict[str, Metrics]:
    # In parallel: a frozen replica must not delay the others.
    with ThreadPoolExecutor(max(len(state.replicas), 1)) as pool:
        pages = pool.map(lambda replica: Metrics.read(replica.metrics_address, _DEADLINE_SECONDS), state.replicas)
        return {replica.name: page for replica, page in zip(state.replicas, pages, strict=True)}


@contextlib.contextmanager
def _keys() -> Iterator[None]:
    """Read keys as they are pressed, without echo."""
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _quits(seconds: float) -> bool:
    """Wait, and return early with True if q is pressed."""
    deadline = time.monotonic() + seconds
    while (remaining := deadline - time.monotonic()) > 0:
        if select.select([sys.stdin], [], [], remaining)[0] and b"q" in os.read(sys.stdin.fileno(), 64).lower():
            return True
    return False
