"""Synthetic records for tests of reports and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timezone

from trireme_loadtest.histogram import Histogram
from trireme_loadtest.machine import MachineFacts
from trireme_loadtest.record import GeneratorStats, LoadRecord, SecondCounts


def record(
    latencies_ms: Sequence[Sequence[float]],
    *,
    errors: Mapping[str, int] | None = None,
    problem: str | None = None,
    task: str = "embedding",
    seed: int = 1,
    answered_seconds: float | None = None,
) -> LoadRecord:
    """One task; ``latencies_ms`` by second; all ``errors`` in the first second."""
    windows = [
        SecondCounts(
            second,
            len(latencies) + (sum((errors or {}).values()) if second == 0 else 0),
            dict(errors or {}) if second == 0 else {},
            Histogram.of(latencies),
        )
        for second, latencies in enumerate(latencies_ms)
    ]
    return LoadRecord(
        started_at=datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        seconds=float(len(windows)),
        answered_seconds=answered_seconds or float(len(windows)),
        settings={
            "arrivals": "poisson:10",
            "tasks": f"{task}=1",
            "protocol": "grpc",
            "address": "127.0.0.1:8001",
            "seconds": float(len(windows)),
            "seed": seed,
        },
        machine=asdict(MachineFacts.read()),
        tasks={task: windows},
        generator=GeneratorStats(Histogram.of([0.1] * 100), 0.05, 1, problem),
    )
