"""Merging of waiting requests into calls."""

from __future__ import annotations

import numpy as np
import pytest
from trireme_backends.routing.parameters import RoutingParameters
from trireme_backends.routing.request import RoutedRequest
from trireme_backends.routing.route import Limits, Tier, Variant
from trireme_backends.routing.variant_queue import VariantQueue

from tests.unit.trireme_backends.routing.observers import Silent

NOW = 100.0


def waiting(count: int, *, max_latency_ms: float | None, waited_ms: float) -> VariantQueue:
    variant = Variant("small", Tier.ECONOMY, 1, 10, limits=Limits(max_rows_per_call=16))
    queue = VariantQueue("small", variant, Silent())
    # A row takes 10 ms, however many are in a call.
    for rows in (1, 4, 16):
        queue.latency.call_ended(rows=rows, call_ms=10.0 * rows, now=NOW)
    for _ in range(count):
        arrived = NOW - waited_ms / 1000
        inputs = {"TEXT": np.array([[b"x"]], dtype=np.object_)}
        parameters = RoutingParameters(max_latency_ms=max_latency_ms)
        queue.append(RoutedRequest(parameters, "", inputs, 1, arrived, arrived + 5, reply=lambda _: None))
    return queue


@pytest.mark.parametrize(
    ("max_latency_ms", "waited_ms", "rows"),
    [
        pytest.param(None, 0, 16, id="no SLA: as many as a call takes"),
        pytest.param(45, 0, 4, id="as many as keep everybody's SLA"),
        pytest.param(45, 1000, 16, id="late already: a full call, or the queue would never get shorter"),
    ],
)
def test_waiting_requests_share_a_call(max_latency_ms: float | None, waited_ms: float, rows: int) -> None:
    call = waiting(20, max_latency_ms=max_latency_ms, waited_ms=waited_ms).next_call(NOW)
    assert call is not None
    assert call.rows == rows
