"""A benchmark's report: a JSON document with every value and a Markdown table with the medians."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from trireme.files import write_atomic, write_json_atomic

from trireme_loadtest.bench.harness.contender import Measurement
from trireme_loadtest.machine import MachineFacts


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the table: the median of one metric.

    Attributes:
        spread: show the minimum and maximum of the repetitions next to the median.
    """

    heading: str
    metric: str
    digits: int = 1
    spread: bool = False

    def cell(self, result: Measurement) -> str:
        if self.metric not in result.values:
            return ""
        values = result.values[self.metric]
        text = f"{result.median(self.metric):.{self.digits}f}"
        if self.spread and len(values) > 1:
            text += f" ({min(values):.{self.digits}f}-{max(values):.{self.digits}f})"
        return text


@dataclass(frozen=True, slots=True)
class Report:
    """The results of one run of a benchmark.

    Attributes:
        name: of the benchmark.
        settings: of the run.
        notes: sentences that explain the table.
    """

    name: str
    columns: Sequence[Column]
    results: Sequence[Measurement]
    machine: MachineFacts
    settings: Mapping[str, object]
    notes: Sequence[str] = ()
    finished_at: datetime = field(default_factory=lambda: datetime.now(timezone.utc))

    def as_json(self) -> dict[str, object]:
        return {
            "benchmark": self.name,
            "finished_at": self.finished_at.isoformat(timespec="seconds"),
            "settings": dict(self.settings),
            "machine": asdict(self.machine),
            "notes": list(self.notes),
            "results": [
                {
                    "name": result.name,
                    "case": result.case,
                    "median": {metric: _number(result.median(metric)) for metric in result.values},
                    "values": {metric: [*map(_number, values)] for metric, values in result.values.items()},
                }
                for result in self.results
            ],
        }

    def table(self) -> str:
        """The Markdown table without headings and notes."""
        rows = [
            ["contender", "case", *(column.heading for column in self.columns)],
            ["---", "---", *("---:" for _ in self.columns)],
            *([result.name, result.case, *(column.cell(result) for column in self.columns)] for result in self.results),
        ]
        return "\n".join("| " + " | ".join(row) + " |" for row in rows)

    def as_markdown(self) -> str:
        settings = ", ".join(f"{name} {value}" for name, value in self.settings.items())
        return "\n".join(
            [
                f"# Benchmark: {self.name}",
                "",
                f"{self.finished_at:%Y-%m-%d %H:%M} UTC; {settings}.",
                "Medians of interleaved repetitions (minimum-maximum).",
                "",
                self.machine.sentence() + ".",
                "",
                self.table(),
                *(f"\n{note}" for note in self.notes),
            ]
        )

    def write(self, folder: Path) -> list[Path]:
        """Write both formats into ``folder``; returns the paths, JSON first."""
        stem = f"bench-{self.name}-{self.finished_at:%Y%m%d-%H%M%S}"
        paths = [folder / f"{stem}.json", folder / f"{stem}.md"]
        write_json_atomic(paths[0], self.as_json())
        write_atomic(paths[1], (self.as_markdown() + "\n").encode())
        return paths


def _number(value: float) -> float | None:
    """None for NaN and infinity, which JSON does not have."""
    return value if math.isfinite(value) else None
