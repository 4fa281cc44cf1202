"""A run's summary and verdict as JSON, for scripts; ``run.json`` has every second of it."""

from __future__ import annotations

import math
from typing import Any

from trireme_loadtest.record import LoadRecord, TaskSummary
from trireme_loadtest.report_text import PERCENTILES
from trireme_loadtest.verdict import Verdict


def summary(record: LoadRecord, verdict: Verdict | None) -> dict[str, Any]:
    """What ``trireme load run --json`` prints."""
    names = [*record.tasks, *([None] if len(record.tasks) > 1 else [])]
    return {
        "started_at": record.started_at.isoformat(timespec="seconds"),
        "settings": dict(record.settings),
        "valid": record.generator.problem is None,
        "problem": record.generator.problem,
        "tasks": {task.name: _task(task) for task in map(record.task, names)},
        "verdict": verdict
        and {
            "outcome": verdict.outcome.name.lower(),
            "reason": verdict.reason,
            "objectives": [
                {
                    "task": finding.objective.task or "all",
                    "key": finding.objective.key,
                    "limit": finding.objective.limit,
                    "measured": _number(finding.measured),
                    "interval_95": [_number(finding.low), _number(finding.high)],
                    "outcome": finding.outcome.name.lower(),
                    "reason": finding.reason,
                }
                for finding in verdict.findings
            ],
        },
    }


def _task(task: TaskSummary) -> dict[str, Any]:
    return {
        "asked": task.asked,
        "asked_per_second": task.asked_rate,
        "answered_per_second": task.answered_rate,
        "errors": dict(task.errors),
        "latency_ms": {f"p{percent:g}": _number(task.latency.percentile_ms(percent)) for percent in PERCENTILES},
    }


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None
