"""The options common to all commands that load a running server."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from trireme_loadtest.generate.arrivals import Arrivals
from trireme_loadtest.generate.requests import WeightedModel
from trireme_loadtest.load_test import PROTOCOLS, LoadTest

DEFAULT_ADDRESSES = {"grpc": "127.0.0.1:8001", "http": "127.0.0.1:8000"}


@dataclass(frozen=True, slots=True)
class TargetOptions:
    """A server and the requests to send to it."""

    tasks: list[WeightedModel]
    address: str
    protocol: str
    deadline_seconds: float
    workers: int

    def load_test(self, arrivals: Arrivals, seconds: float, seed: int) -> LoadTest:
        """A run against this server."""
        return LoadTest(
            self.address, self.protocol, self.tasks, arrivals, seconds, self.deadline_seconds, self.workers, seed
        )


def target_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a click command, as one ``target``."""

    @click.option("--model", "models", multiple=True, required=True, help="MODEL or MODEL=WEIGHT; repeatable.")
    @click.option("--url", "address", help="Server, host:port. [127.0.0.1:8001, for http :8000]")
    @click.option("--protocol", type=click.Choice(PROTOCOLS), default="grpc", show_default=True)
    @click.option(
        "--inputs",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File of texts, one per line. [golden samples]",
    )
    @click.option(
        "--deadline",
        "deadline_seconds",
        type=click.FloatRange(0.01, 3600),
        default=30.0,
        show_default=True,
        help="Deadline of each request, in seconds.",
    )
    @click.option(
        "--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Number of generator processes."
    )
    @functools.wraps(command)
    def wrapper(
        models: tuple[str, ...],
        address: str | None,
        protocol: str,
        inputs: Path | None,
        deadline_seconds: float,
        workers: int,
        **others: Any,
    ) -> Any:
        tasks = [WeightedModel.parse(model, inputs) for model in models]
        target = TargetOptions(tasks, address or DEFAULT_ADDRESSES[protocol], protocol, deadline_seconds, workers)
        return command(target=target, **others)

    return wrapper
