"""``trireme load``: load a running server and judge the run; compare two runs."""

from __future__ import annotations

from pathlib import Path

import click
from trireme.files import json_text, write_atomic
from trireme.settings import Settings

from trireme_loadtest.generate.arrivals import Arrivals
from trireme_loadtest.generate.schedule import LoadProgress
from trireme_loadtest.judge.compare import compare as compare_runs
from trireme_loadtest.judge.slo import Slo
from trireme_loadtest.judge.verdict import judge
from trireme_loadtest.load_test import run_load_test
from trireme_loadtest.record import LoadRecord
from trireme_loadtest.report.compare import compare_html, compare_json, compare_text
from trireme_loadtest.report.files import summary, write_reports
from trireme_loadtest.report.text import text_report
from trireme_loadtest.target_options import TargetOptions, target_options


@click.group()
def load() -> None:
    """Load a running server and check objectives; compare runs."""


@load.command()
@target_options
@click.option(
    "--arrivals",
    "spec",
    default="poisson:20",
    show_default=True,
    help="Arrivals per second: constant:R, poisson:R, ramp:A-B, burst:A-B/EVERY/FOR or trace:FILE.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 86400), default=30.0, show_default=True)
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Seed; equal seeds send the same requests at the same times."
)
@click.option(
    "--slo",
    "slo_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Objectives (slo.toml); they determine the exit code.",
)
@click.option(
    "--output", "output_dir", type=click.Path(path_type=Path), help="Folder for the reports. [reports/load-TIME]"
)
@click.option("--json", "as_json", is_flag=True, help="Print summary and verdict as JSON.")
def run(
    target: TargetOptions,
    spec: str,
    seconds: float,
    seed: int,
    slo_path: Path | None,
    output_dir: Path | None,
    as_json: bool,
) -> int:
    """Send requests at scheduled times, independent of the server's responses, and report the responses.

    Exit code with --slo: 0 met, 1 broken, 3 inconclusive (too few samples, or the generator was the limit).
    """
    slo = Slo.read(slo_path) if slo_path else None
    record = run_load_test(target.load_test(Arrivals.parse(spec), seconds, seed), slo, _print_progress)
    verdict = judge(record, slo) if slo else None
    folder = output_dir or Settings.from_environment().project_dir / f"reports/load-{record.started_at:%Y%m%d-%H%M%S}"
    write_reports(record, verdict, folder)
    click.echo(json_text(summary(record, verdict)) if as_json else text_report(record, verdict))
    click.echo(f"  wrote {folder}/report.html, report.txt, run.json" + (", junit.xml" if verdict else ""), err=True)
    return verdict.outcome.value if verdict else 0


def _print_progress(seconds: float, progress: LoadProgress) -> None:
    waiting = progress.sent - progress.ended
    click.echo(
        f"  {max(seconds, 0):5.0f} s: {progress.sent} sent, {waiting} waiting, {progress.failed} failed", err=True
    )


@load.command()
@click.argument("first", type=click.Path(exists=True, path_type=Path))
@click.argument("second", type=click.Path(exists=True, path_type=Path))
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write an HTML page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: Path, second: Path, html_path: Path | None, as_json: bool) -> None:
    """Compare two runs: run.json files, or their folders."""
    before, after = (LoadRecord.read(path / "run.json" if path.is_dir() else path) for path in (first, second))
    differences = compare_runs(before, after)
    if html_path:
        write_atomic(html_path, compare_html(before, after, differences).encode())
        click.echo(f"  wrote {html_path}", err=True)
    click.echo(json_text(compare_json(differences)) if as_json else compare_text(differences))
