"""The options every benchmark takes, and where its report goes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from trireme.files import json_text
from trireme.settings import Settings

from trireme_loadtest.bench.harness.report import Report


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How long to measure, and in which form to report.

    Attributes:
        repetitions: rounds; each contender runs once a round.
        seconds: length of one repetition.
        as_json: JSON on stdout in place of Markdown.
        output_dir: where the report's files go.
    """

    repetitions: int
    seconds: float
    as_json: bool
    output_dir: Path

    def settings(self) -> dict[str, object]:
        """What the report keeps of them."""
        return {"repetitions": self.repetitions, "seconds": self.seconds}

    def publish(self, report: Report) -> None:
        """Write ``<name>-<time>.json`` and ``.md`` and print one of the two."""
        for path in report.write(self.output_dir):
            click.echo(f"  wrote {path}", err=True)
        click.echo(json_text(report.as_json()) if self.as_json else report.as_markdown())


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a click command ``--repetitions``, ``--seconds``, ``--json`` and ``--output`` as one ``options``."""

    @click.option("--repetitions", type=click.IntRange(1, 100), default=3, show_default=True, help="Rounds.")
    @click.option(
        "--seconds",
        type=click.FloatRange(0.1, 3600),
        default=10.0,
        show_default=True,
        help="Length of one repetition.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON in place of Markdown.")
    @click.option("--output", "output_dir", type=click.Path(path_type=Path), help="Folder for the report. [reports/]")
    @functools.wraps(command)
    def wrapper(repetitions: int, seconds: float, as_json: bool, output_dir: Path | None, **others: Any) -> Any:
        folder = output_dir or Settings.from_environment().project_dir / "reports"
        return command(options=RunOptions(repetitions, seconds, as_json, folder), **others)

    return wrapper
