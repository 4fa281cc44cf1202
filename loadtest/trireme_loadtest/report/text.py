"""A run as text, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

from trireme_loadtest.judge.verdict import ObjectiveResult, SloVerdict
from trireme_loadtest.record import LoadRecord, TaskSummary

PERCENTILES = (50.0, 90.0, 95.0, 99.0, 99.9)


def text_report(record: LoadRecord, verdict: SloVerdict | None) -> str:
    """Rates, percentiles, errors, the generator, the server, the verdict."""
    settings = record.settings
    lines = [
        f"{settings['arrivals']} for {settings['seconds']:g} s over {settings['protocol']} to {settings['address']}",
        "",
        *text_table(
            [
                ["task", "requests/s", "answered/s", "failed", *(f"p{percent:g} ms" for percent in PERCENTILES)],
                *(_task_row(record.task(name)) for name in record.tasks),
                *([_task_row(record.task(None))] if len(record.tasks) > 1 else []),
            ]
        ),
    ]
    for name in record.tasks:
        summary = record.task(name)
        lines += [f"  {name}: {count} x {kind}" for kind, count in summary.errors.items()]
        if summary.between_responses.count:
            first, between = summary.first_response, summary.between_responses
            lines.append(
                f"  {name} streams: first response p50 {first.percentile_ms(50):.1f} "
                f"p95 {first.percentile_ms(95):.1f} ms, between responses "
                f"p50 {between.percentile_ms(50):.2f} p95 {between.percentile_ms(95):.2f} ms, "
                f"{summary.token_rate:.1f} tokens/s"
            )
    if record.server:
        lines += ["", "inside the server, mean ms per request"]
        lines += text_table(
            [
                ["model", "queue", "input", "compute", "output", "rows per run"],
                *(
                    [
                        share.model,
                        f"{share.queue_ms:.2f}",
                        f"{share.compute_input_ms:.2f}",
                        f"{share.compute_infer_ms:.2f}",
                        f"{share.compute_output_ms:.2f}",
                        f"{share.mean_batch:.1f}",
                    ]
                    for share in record.server
                ),
            ]
        )
    generator = record.generator
    lines += [
        "",
        f"generator: {generator.workers} process(es), {generator.cpu_share:.0%} of a core; p99 of lateness "
        f"{generator.lateness.percentile_ms(99):.2f} ms",
    ]
    if generator.problem:
        lines.append(f"INVALID: {generator.problem}")
    if verdict:
        lines += ["", *verdict_lines(verdict)]
    return "\n".join(lines)


def verdict_lines(verdict: SloVerdict) -> list[str]:
    """One line per objective, and the outcome."""
    return [*(finding_line(finding) for finding in verdict.findings), f"SLO: {outcome_word(verdict)}"]


def finding_line(finding: ObjectiveResult) -> str:
    line = f"  {finding.outcome.name.lower():12} {finding.name} = {finding.objective.limit:g}: {measured_text(finding)}"
    return f"{line}; {finding.reason}" if finding.reason else line


def measured_text(finding: ObjectiveResult) -> str:
    """The measured value with its interval, in the unit of the objective."""
    if math.isnan(finding.measured):
        return "not measured"
    if finding.objective.measure == "minimum_rate":
        return f"{finding.measured:.1f}/s"
    if finding.objective.measure == "error_rate":
        return f"{finding.measured:.3%} (95 %: {finding.low:.3%} to {finding.high:.3%})"
    high = "?" if math.isinf(finding.high) else f"{finding.high:.1f}"
    return f"{finding.measured:.1f} ms (95 %: {finding.low:.1f} to {high})"


def outcome_word(verdict: SloVerdict) -> str:
    word = verdict.outcome.name.lower()
    return f"{word} ({verdict.reason})" if verdict.reason else word


def _task_row(task: TaskSummary) -> list[str]:
    percentiles = [f"{task.latency.percentile_ms(percent):.1f}" for percent in PERCENTILES]
    return [
        task.name,
        f"{task.asked_rate:.1f}",
        f"{task.answered_rate:.1f}",
        f"{task.failed} ({task.error_rate:.2%})",
        *percentiles,
    ]


def text_table(rows: Iterable[list[str]]) -> list[str]:
    """Aligned columns: the first to the left, numbers to the right."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
