"""Comparison of two runs, as text and as a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from typing import Any

from trireme_loadtest.judge.compare import Difference
from trireme_loadtest.record import LoadRecord
from trireme_loadtest.report.html import html_table, page
from trireme_loadtest.report.plots import Series, xy_chart
from trireme_loadtest.report.text import text_table

_HEADS = ["task", "measure", "first", "second", "difference", "95 % interval", "second / first", ""]


def compare_text(differences: Sequence[Difference]) -> str:
    """One line per measure."""
    return "\n".join(text_table([_HEADS, *map(_row, differences)]))


def compare_json(differences: Sequence[Difference]) -> list[dict[str, Any]]:
    """The differences as JSON values, without NaN."""
    return [
        {
            **{
                key: None if isinstance(value, float) and math.isnan(value) else value
                for key, value in asdict(one).items()
            },
            "outcome": one.word,
        }
        for one in differences
    ]


def compare_html(first: LoadRecord, second: LoadRecord, differences: Sequence[Difference]) -> str:
    """A table and plots, with both runs in each plot."""
    heads = "".join(
        f"<p>{name}: {record.started_at:%Y-%m-%d %H:%M:%S} UTC; "
        f"{escape(', '.join(f'{key} {value}' for key, value in record.settings.items()))}</p>"
        for name, record in (("first", first), ("second", second))
    )
    charts = []
    for task in dict.fromkeys(difference.task for difference in differences):
        runs = [("first", first.tasks[task]), ("second", second.tasks[task])]
        for percent in (50, 95):
            charts.append(
                xy_chart(
                    f"{task}: p{percent} over time",
                    [
                        Series(name, [(window.second, window.latency.percentile_ms(percent)) for window in windows])
                        for name, windows in runs
                    ],
                    x_label="second of the intended send time",
                    y_label="ms",
                    log_y=True,
                )
            )
        charts.append(
            xy_chart(
                f"{task}: latency by percentile",
                [
                    Series(
                        name,
                        [(percent, record.task(task).latency.percentile_ms(percent)) for percent in range(1, 100)],
                    )
                    for name, record in (("first", first), ("second", second))
                ],
                x_label="percentile",
                y_label="ms",
                log_y=True,
            )
        )
    table = html_table(_HEADS, [_row(one) for one in differences])
    return page(
        "Comparison of two load tests",
        f'{heads}<h2>Differences</h2>{table}<h2>Plots</h2><div class="plots">{"".join(charts)}</div>',
    )


def _row(one: Difference) -> list[str]:
    form = "{:.3%}" if one.measure == "error rate" else "{:.2f}"
    interval = "" if math.isnan(one.low) else f"{form.format(one.low)} to {form.format(one.high)}"
    ratio = f"{one.second / one.first:.3f}" if one.first else ""
    return [
        one.task,
        one.measure,
        form.format(one.first),
        form.format(one.second),
        form.format(one.second - one.first),
        interval,
        ratio,
        one.word,
    ]
