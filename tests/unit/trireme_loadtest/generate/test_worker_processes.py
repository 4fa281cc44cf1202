from __future__ import annotations

import pytest
from trireme_loadtest.generate.worker_processes import limiting_problem


@pytest.mark.parametrize(
    ("lateness_ms", "latency_ms", "cpu_share", "expected"),
    [
        (0.2, 10.0, 0.1, None),
        (8.0, 100.0, 0.1, None),
        (8.0, 10.0, 0.1, "p99 of the send delay was 8.0 ms, the limit is 5.0 ms"),
        (0.2, 10.0, 0.95, "busy 95% of the time"),
        # No request succeeded: lateness cannot be compared with anything, and the errors explain the run.
        (8.0, float("nan"), 0.1, None),
    ],
)
def test_a_generator_is_the_limit_when_it_is_late_or_busy(
    lateness_ms: float, latency_ms: float, cpu_share: float, expected: str | None
) -> None:
    problem = limiting_problem(lateness_ms, latency_ms, cpu_share)

    assert problem is None if expected is None else expected in (problem or "")
