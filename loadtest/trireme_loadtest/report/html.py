"""A run as a self-contained HTML page, which needs no other file and no network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape

from trireme_loadtest.histogram import Histogram
from trireme_loadtest.judge.verdict import SloVerdict
from trireme_loadtest.record import LoadRecord, SecondCounts, ServerShare
from trireme_loadtest.report.plots import Series, bar_chart, histogram_chart, xy_chart
from trireme_loadtest.report.text import PERCENTILES, measured_text, outcome_word

_STYLE = """
:root { color-scheme: light dark;
  --ink: #1f2937; --soft: #6b7280; --line: #e5e7eb; --paper: #ffffff; --card: #f9fafb; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --soft: #9ca3af; --line: #374151; --paper: #111827; --card: #1f2937; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto;
  max-width: 1360px; padding: 24px; }
h1 { font-size: 22px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 28px 0 8px; }
p { margin: 4px 0; color: var(--soft); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 10px; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 500; }
th:first-child, td:first-child, .words { text-align: left; } td.words { white-space: normal; }
.scroll { overflow-x: auto; }
.verdict { display: inline-block; padding: 6px 14px; border-radius: 6px; margin: 10px 0; color: #fff;
  font-weight: 600; }
.met { background: #059669; } .broken { background: #dc2626; } .inconclusive { background: #b45309; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr)); gap: 16px; }
.plots svg { width: 100%; height: auto; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .title { font-weight: 600; font-size: 14px; fill: var(--ink); }
svg .tick-y, svg .bar-label, svg .limit-label { text-anchor: end; } svg .tick-x, svg .label { text-anchor: middle; }
svg .bar-label { fill: var(--ink); }
svg .grid { stroke: var(--line); } svg .limit { stroke: #dc2626; stroke-dasharray: 5 4; }
svg .limit-label { fill: #dc2626; }
"""


def html_report(record: LoadRecord, verdict: SloVerdict | None) -> str:
    """Verdict, table and plots of one run."""
    settings, machine = record.settings, record.machine
    title = f"Load test of {', '.join(record.tasks)}"
    settings_text = ", ".join(f"{name} {value}" for name, value in settings.items())
    parts = [
        f"<p>{record.started_at:%Y-%m-%d %H:%M:%S} UTC; {escape(settings_text)}</p>",
        f"<p>{machine['cores']} cores ({escape(machine['cpu'])}), load average {machine['load_average']} before the "
        f"run; generator: {record.generator.workers} process(es), {record.generator.cpu_share:.0%} of a core, "
        f"p99 of lateness {record.generator.lateness.percentile_ms(99):.2f} ms</p>",
        *(_verdict(verdict) if verdict else _invalid(record)),
        "<h2>Latency</h2>",
        _latency_table(record),
        "<h2>Plots</h2>",
        f'<div class="plots">{"".join(_plots(record, verdict))}</div>',
    ]
    return page(title, "".join(parts))


def page(title: str, body: str) -> str:
    """A complete document with ``body``."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>'
        f"<body><h1>{escape(title)}</h1>{body}</body></html>"
    )


def _verdict(verdict: SloVerdict) -> list[str]:
    rows = [
        [
            finding.name,
            f"{finding.objective.limit:g}",
            measured_text(finding),
            finding.outcome.name.lower(),
            finding.reason,
        ]
        for finding in verdict.findings
    ]
    return [
        f'<div class="verdict {verdict.outcome.name.lower()}">SLO {escape(outcome_word(verdict))}</div>',
        html_table(["objective", "limit", "measured", "outcome", "why"], rows, words=(4,)),
    ]


def _invalid(record: LoadRecord) -> list[str]:
    problem = record.generator.problem
    return [f'<div class="verdict inconclusive">invalid: {escape(problem)}</div>'] if problem else []


def _latency_table(record: LoadRecord) -> str:
    rows = []
    for name in [*record.tasks, *([None] if len(record.tasks) > 1 else [])]:
        task = record.task(name)
        errors = ", ".join(f"{count} {kind}" for kind, count in task.errors.items())
        rows.append(
            [
                task.name,
                f"{task.asked_rate:.1f}",
                f"{task.answered_rate:.1f}",
                f"{task.failed} ({task.error_rate:.2%})",
                *(f"{task.latency.percentile_ms(percent):.1f}" for percent in PERCENTILES),
                f"{task.latency.greatest_ms:.1f}",
                errors,
            ]
        )
    heads = ["task", "requests/s", "answered/s", "failed", *(f"p{percent:g} ms" for percent in PERCENTILES), "max ms"]
    return html_table([*heads, "errors"], rows, words=(len(heads),))


def _plots(record: LoadRecord, verdict: SloVerdict | None) -> list[str]:
    windows = _by_second(record)
    limits = [
        (f"{finding.objective.key} {finding.objective.limit:g}", finding.objective.limit)
        for finding in (verdict.findings if verdict else ())
        if finding.objective.measure == "latency"
    ]
    over_time = [
        Series(f"p{percent:g}", [(second, one.latency.percentile_ms(percent)) for second, one in windows])
        for percent in (50, 95, 99)
    ]
    rates = [
        Series("asked", [(second, one.asked) for second, one in windows]),
        Series("successful", [(second, one.answered) for second, one in windows]),
    ]
    against_rate = [
        Series(f"p{percent:g}", [(one.asked, one.latency.percentile_ms(percent)) for _, one in windows], as_line=False)
        for percent in (50, 95)
    ]
    latency = record.task(None).latency
    errors: Counter[str] = Counter(record.task(None).errors)
    return [
        xy_chart(
            "Latency over time",
            over_time,
            x_label="second of the intended send time",
            y_label="ms",
            limits=limits,
            log_y=True,
        ),
        xy_chart("Rate over time", rates, x_label="second of the intended send time", y_label="requests/s"),
        xy_chart(
            "Latency against rate",
            against_rate,
            x_label="requests in one second",
            y_label="ms",
            log_y=True,
        ),
        histogram_chart(
            "Latencies of all requests",
            [(value / 1000, count) for value, count in latency.counts.items()],
            x_label="ms",
            limits=limits,
        ),
        bar_chart(
            "Errors by kind", [(kind, [("requests", count)]) for kind, count in errors.items()], x_label="requests"
        )
        if errors
        else "",
        _server_chart(record.server),
    ]


def _by_second(record: LoadRecord) -> list[tuple[int, SecondCounts]]:
    """All tasks together."""
    gathered: dict[int, list[SecondCounts]] = {}
    for windows in record.tasks.values():
        for window in windows:
            gathered.setdefault(window.second, []).append(window)
    return [
        (
            second,
            SecondCounts(
                second,
                sum(window.asked for window in ones),
                dict(sum((Counter(window.errors) for window in ones), Counter())),
                Histogram.merged(window.latency for window in ones),
            ),
        )
        for second, ones in sorted(gathered.items())
    ]


def _server_chart(shares: Sequence[ServerShare]) -> str:
    bars = [
        (
            share.model,
            [
                ("queue", share.queue_ms),
                ("input", share.compute_input_ms),
                ("compute", share.compute_infer_ms),
                ("output", share.compute_output_ms),
            ],
        )
        for share in shares
        if math.isfinite(share.queue_ms)
    ]
    return bar_chart("Inside the server", bars, x_label="mean ms per request") if bars else ""


def html_table(heads: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = ()) -> str:
    def row_of(tag: str, cells: Sequence[str]) -> str:
        kinds = [' class="words"' if index in words else "" for index in range(len(cells))]
        row = "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{row}</tr>"

    head, body = row_of("th", heads), "".join(row_of("td", row) for row in rows)
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{body}</tbody></table></div>'
