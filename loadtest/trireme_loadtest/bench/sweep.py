"""``trireme bench sweep``: the highest rate that meets an SLO."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click

from trireme_loadtest.bench.harness import Column, MachineFacts, Measurement, Report, RunOptions, run_options
from trireme_loadtest.errors import SpecError
from trireme_loadtest.generate.arrivals import Arrivals
from trireme_loadtest.judge.slo import Slo
from trireme_loadtest.judge.verdict import SloOutcome, SloVerdict, judge
from trireme_loadtest.load_test import run_load_test
from trireme_loadtest.record import LoadRecord
from trireme_loadtest.target_options import TargetOptions, target_options

COLUMNS = (
    Column("requests/s", "asked_per_second"),
    Column("answered/s", "answered_per_second", spread=True),
    Column("p50 ms", "p50_ms"),
    Column("p95 ms", "p95_ms", spread=True),
    Column("p99 ms", "p99_ms", spread=True),
    Column("failed %", "failed_percent", digits=2),
    Column("runs that met", "runs_met", digits=2),
)


@dataclass(frozen=True, slots=True)
class RateStep:
    """All runs at one rate.

    Attributes:
        runs: one per repetition.
    """

    rate: float
    runs: tuple[tuple[LoadRecord, SloVerdict], ...]

    @property
    def met(self) -> bool:
        """Whether most runs met the SLO; an inconclusive run did not."""
        return 2 * sum(verdict.outcome is SloOutcome.MET for _, verdict in self.runs) > len(self.runs)

    @property
    def problem(self) -> str | None:
        """What limited the generator in any of the runs."""
        return next((record.generator.problem for record, _ in self.runs if record.generator.problem), None)

    def measured(self) -> Measurement:
        tasks = [record.task(None) for record, _ in self.runs]
        return Measurement(
            name=f"{self.rate:.4g}/s",
            case="met" if self.met else "not met",
            values={
                "asked_per_second": tuple(task.asked_rate for task in tasks),
                "answered_per_second": tuple(task.answered_rate for task in tasks),
                "p50_ms": tuple(task.latency.percentile_ms(50) for task in tasks),
                "p95_ms": tuple(task.latency.percentile_ms(95) for task in tasks),
                "p99_ms": tuple(task.latency.percentile_ms(99) for task in tasks),
                "failed_percent": tuple(task.error_rate * 100 for task in tasks),
                "runs_met": tuple(float(verdict.outcome is SloOutcome.MET) for _, verdict in self.runs),
            },
        )


@click.command()
@target_options
@click.option("--slo", "slo_path", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--from", "low", type=click.FloatRange(min=0, min_open=True), default=5.0, show_default=True)
@click.option("--to", "high", type=click.FloatRange(min=0, min_open=True), default=500.0, show_default=True)
@click.option(
    "--within",
    type=click.FloatRange(0.01, 1.0),
    default=0.05,
    show_default=True,
    help="Stop when the highest rate that meets and the lowest that misses differ by this share.",
)
@run_options
def sweep(options: RunOptions, target: TargetOptions, slo_path: Path, low: float, high: float, within: float) -> None:
    """Find by bisection the highest Poisson rate at which a running server meets an SLO.

    Runs each rate --repetitions times with different arrivals; a rate meets the SLO if most of its runs do. Runs near
    the edge are often inconclusive: longer --seconds locate it more exactly.
    """
    if low >= high:
        raise SpecError(f"--from {low:g} must be below --to {high:g}")
    slo, machine = Slo.read(slo_path), MachineFacts.read()

    def probe(rate: float) -> RateStep:
        runs = []
        for seed in range(1, options.repetitions + 1):
            record = run_load_test(
                target.load_test(Arrivals.parse(f"poisson:{rate}"), options.seconds, seed), slo, lambda *_: None
            )
            verdict = judge(record, slo)
            runs.append((record, verdict))
            click.echo(f"  [{seed}/{options.repetitions}] {rate:.4g}/s: {verdict.outcome.name.lower()}", err=True)
        return RateStep(rate, tuple(runs))

    steps = bisect(probe, low, high, within)
    options.publish(
        Report(
            "sweep",
            COLUMNS,
            [step.measured() for step in sorted(steps, key=lambda step: step.rate)],
            machine,
            settings={
                **options.settings(),
                "tasks": ", ".join(f"{task.model}={task.weight:g}" for task in target.tasks),
                "slo": ", ".join(f"{one.task or 'all'} {one.key} {one.limit:g}" for one in slo.objectives),
            },
            notes=[conclusion(steps)],
        )
    )


def bisect(probe: Callable[[float], RateStep], low: float, high: float, within: float) -> list[RateStep]:
    """Probe both ends, then halve (by ratio) the range between a rate that meets and one that does not."""
    steps = [probe(low)]
    if not steps[0].met:
        return steps
    steps.append(probe(high))
    if steps[1].met:
        return steps
    while high / low > 1 + within:
        steps.append(probe((low * high) ** 0.5))
        if steps[-1].met:
            low = steps[-1].rate
        else:
            high = steps[-1].rate
    return steps


def conclusion(steps: list[RateStep]) -> str:
    """The conclusion in one sentence."""
    met = [step.rate for step in steps if step.met]
    missed = [step for step in steps if not step.met]
    if not met:
        reasons = [finding.reason for _, verdict in missed[0].runs for finding in verdict.findings if finding.reason]
        return f"Even {missed[0].rate:.4g}/s does not meet the SLO: {missed[0].problem or (reasons or ['?'])[0]}."
    if not missed:
        return f"Even {max(met):.4g}/s meets the SLO; raise --to."
    edge = min(missed, key=lambda step: step.rate)
    sentence = f"The highest rate that meets the SLO is {max(met):.4g}/s; {edge.rate:.4g}/s does not meet it."
    return f"{sentence} The generator was the limit there: {edge.problem}." if edge.problem else sentence
