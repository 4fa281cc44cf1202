"""The options common to all benchmarks, and the output of their reports."""

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
    """How long to measure, and the format of the report.

    Attributes:
        repetitions: rounds; each contender runs once per round.
        seconds: length of one repetition.
        as_json: print JSON on stdout instead of Markdown.
        output_dir: folder for the report's files.
    """

    repetitions: int
    seconds: float
    as_json: bool
    output_dir: Path

    def settings(self) -> dict[str, object]:
        """The options that are recorded in the report."""
        return {"repetitions": self.repetitions, "seconds": self.seconds}

    def publish(self, report: Report) -> None:
        """Write ``<name>-<time>.json`` and ``.md``, and print one of the two."""
        for path in report.write(self.output_dir):
            click.echo(f"  wrote {path}", err=True)
        click.echo(json_text(report.as_json()) if self.as_json else report.as_markdown())


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--repetitions``, ``--seconds``, ``--json`` and ``--output`` to a click command, as one ``options``."""

    @click.option("--repetitions", type=click.IntRange(1, 100), default=3, show_default=True, help="Rounds.")
    @click.option(
        "--seconds",
        type=click.FloatRange(0.1, 3600),
        default=10.0,
        show_default=True,
        help="Length of one repetition, in seconds.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON instead of Markdown.")
    @click.option("--output", "output_dir", type=click.Path(path_type=Path), help="Folder for the report. [reports/]")
    @functools.wraps(command)
    def wrapper(repetitions: int, seconds: float, as_json: bool, output_dir: Path | None, **others: Any) -> Any:
        folder = output_dir or Settings.from_environment().project_dir / "reports"
        return command(options=RunOptions(repetitions, seconds, as_json, folder), **others)

    return wrapper
