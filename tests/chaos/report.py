"""Report of the chaos suite: requests, failures, latency, and removal and return of replicas in Envoy, by fault."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_COLUMNS = ("fault", "requests", "failures", "p50_ms", "p99_ms", "slowest_ms", "left after", "back after")


@dataclass(frozen=True, slots=True)
class FaultResult:
    """One scenario.

    Attributes:
        traffic: requests, failures, latency.
        left_after_seconds, back_after_seconds: by replica, time from the fault until Envoy stopped sending requests to
            it, and until Envoy resumed.
    """

    fault: str
    traffic: Mapping[str, Any]
    left_after_seconds: Mapping[str, float] = field(default_factory=dict)
    back_after_seconds: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)


class ChaosReport:
    """``chaos.json`` and ``chaos.txt`` in a directory, rewritten with each result."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._results: list[FaultResult] = []

    def add(self, result: FaultResult) -> None:
        self._results.append(result)
        self._directory.mkdir(parents=True, exist_ok=True)
        document = [asdict(result) for result in self._results]
        (self._directory / "chaos.json").write_text(json.dumps(document, indent=2) + "\n")
        (self._directory / "chaos.txt").write_text(self._as_text())

    def _as_text(self) -> str:
        rows = [_COLUMNS, *map(_row, self._results)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
        return "".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
            for row in rows
        )


def _row(result: FaultResult) -> tuple[str, ...]:
    numbers = (str(result.traffic[column]) for column in _COLUMNS[1:6])
    return (result.fault, *numbers, _times(result.left_after_seconds), _times(result.back_after_seconds))


def _times(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items()) or "-"
