"""``trireme load run``: load a running server, hold what came against objectives."""

from __future__ import annotations

from pathlib import Path

import click
from trireme.files import json_text
from trireme.settings import Settings

from trireme_loadtest.arrivals import Arrivals
from trireme_loadtest.load_run import run_load
from trireme_loadtest.open_loop import Progress
from trireme_loadtest.report_files import write_reports
from trireme_loadtest.report_json import summary
from trireme_loadtest.report_text import text_report
from trireme_loadtest.slo import Slo
from trireme_loadtest.target_options import TargetOptions, target_options
from trireme_loadtest.verdict import judge


@click.command()
@target_options
@click.option(
    "--arrivals",
    "spec",
    default="poisson:20",
    show_default=True,
    help="constant:R, poisson:R, ramp:A-B, burst:A-B/EVERY/FOR or trace:FILE.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 86400), default=30.0, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True, help="Equal seeds send the same at the same times.")
@click.option(
    "--slo",
    "slo_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Objectives; they decide the exit code.",
)
@click.option("--output", "output_dir", type=click.Path(path_type=Path), help="For the reports. [reports/load-TIME]")
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
    """Send requests at the asked times, whatever the server does, and report what came.

    Exit code with --slo: 0 met, 1 broken, 3 inconclusive (too few samples, or the generator was the limit).
    """
    slo = Slo.read(slo_path) if slo_path else None
    record = run_load(target.plan(Arrivals.parse(spec), seconds, seed), slo, _say_progress)
    verdict = judge(record, slo) if slo else None
    folder = output_dir or Settings.from_environment().project_dir / f"reports/load-{record.started_at:%Y%m%d-%H%M%S}"
    write_reports(record, verdict, folder)
    click.echo(json_text(summary(record, verdict)) if as_json else text_report(record, verdict))
    click.echo(f"  wrote {folder}/report.html, report.txt, run.json" + (", junit.xml" if verdict else ""), err=True)
    return verdict.outcome.value if verdict else 0


def _say_progress(seconds: float, progress: Progress) -> None:
    waiting = progress.sent - progress.ended
    click.echo(
        f"  {max(seconds, 0):5.0f} s: {progress.sent} sent, {waiting} waiting, {progress.failed} failed", err=True
    )
