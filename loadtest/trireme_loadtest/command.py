"""``trireme load``: load a running server, hold the result against objectives, compare results."""

from __future__ import annotations

import json
from pathlib import Path

import click
from trireme.files import write_atomic
from trireme.settings import Settings

from trireme_loadtest.arrivals import Arrivals
from trireme_loadtest.compare import compare as compare_runs
from trireme_loadtest.load_run import PROTOCOLS, LoadPlan, run_load
from trireme_loadtest.load_task import parse_task
from trireme_loadtest.open_loop import Progress
from trireme_loadtest.record import LoadRecord
from trireme_loadtest.report_compare import compare_html, compare_json, compare_text
from trireme_loadtest.report_files import write_reports
from trireme_loadtest.report_json import summary
from trireme_loadtest.report_text import text_report
from trireme_loadtest.slo import Slo
from trireme_loadtest.verdict import judge

DEFAULT_ADDRESSES = {"grpc": "127.0.0.1:8001", "http": "127.0.0.1:8000"}


@click.group()
def load() -> None:
    """Load a running server; a verdict on its objectives."""


@load.command()
@click.option("--model", "models", multiple=True, required=True, help="MODEL or MODEL=WEIGHT; may be repeated.")
@click.option(
    "--arrivals",
    "spec",
    default="poisson:20",
    show_default=True,
    help="constant:R, poisson:R, ramp:A-B, burst:A-B/EVERY/FOR, trace:FILE.",
)
@click.option("--seconds", type=click.FloatRange(0.1, 86400), default=30.0, show_default=True)
@click.option("--url", "address", help="host:port. [127.0.0.1:8001, for http :8000]")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="grpc", show_default=True)
@click.option(
    "--inputs", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Texts, one a line. [golden samples]"
)
@click.option(
    "--slo",
    "slo_path",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Objectives; decides the exit code.",
)
@click.option(
    "--deadline",
    "deadline_seconds",
    type=click.FloatRange(0.01, 3600),
    default=30.0,
    show_default=True,
    help="Seconds for each request.",
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Generator processes.")
@click.option(
    "--seed", type=int, default=1, show_default=True, help="Equal seeds send the same requests at the same times."
)
@click.option(
    "--output", "output_dir", type=click.Path(path_type=Path), help="Folder for the reports. [reports/load-TIME]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict and summary as JSON.")
def run(
    models: tuple[str, ...],
    spec: str,
    seconds: float,
    address: str | None,
    protocol: str,
    inputs: Path | None,
    slo_path: Path | None,
    deadline_seconds: float,
    workers: int,
    seed: int,
    output_dir: Path | None,
    as_json: bool,
) -> int:
    """Send requests at the asked times, whatever the server does, and report what came.

    Exit code with --slo: 0 met, 1 broken, 3 inconclusive (too few samples, or the generator was the limit).
    """
    slo = Slo.read(slo_path) if slo_path else None
    plan = LoadPlan(
        address=address or DEFAULT_ADDRESSES[protocol],
        protocol=protocol,
        tasks=[parse_task(model, inputs) for model in models],
        arrivals=Arrivals.parse(spec),
        seconds=seconds,
        deadline_seconds=deadline_seconds,
        workers=workers,
        seed=seed,
    )
    record = run_load(plan, slo, _say_progress)
    verdict = judge(record, slo) if slo else None
    folder = output_dir or _reports_dir() / f"load-{record.started_at:%Y%m%d-%H%M%S}"
    write_reports(record, verdict, folder)
    click.echo(json.dumps(summary(record, verdict), indent=2) if as_json else text_report(record, verdict))
    click.echo(f"  wrote {folder}/report.html, report.txt, run.json" + (", junit.xml" if verdict else ""), err=True)
    return verdict.outcome.value if verdict else 0


@load.command()
@click.argument("first", type=click.Path(exists=True, path_type=Path))
@click.argument("second", type=click.Path(exists=True, path_type=Path))
@click.option("--html", "html_path", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def compare(first: Path, second: Path, html_path: Path | None, as_json: bool) -> None:
    """Put two runs side by side: run.json files, or the folders they are in."""
    before, after = (LoadRecord.read(path / "run.json" if path.is_dir() else path) for path in (first, second))
    differences = compare_runs(before, after)
    if html_path:
        write_atomic(html_path, compare_html(before, after, differences).encode())
        click.echo(f"  wrote {html_path}", err=True)
    click.echo(json.dumps(compare_json(differences), indent=2) if as_json else compare_text(differences))


def _reports_dir() -> Path:
    return Settings.from_environment().project_dir / "reports"


def _say_progress(seconds: float, progress: Progress) -> None:
    waiting = progress.sent - progress.ended
    click.echo(
        f"  {max(seconds, 0):5.0f} s: {progress.sent} sent, {waiting} waiting, {progress.failed} failed", err=True
    )
