"""The queue of one variant: waiting requests, and the calls that they are merged into."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trireme_backends.routing.breaker import BreakerState
from trireme_backends.routing.decision import Health
from trireme_backends.routing.errors import CallError, Fault
from trireme_backends.routing.request import RoutedRequest, Tensors
from trireme_backends.routing.route import Variant
from trireme_backends.routing.selection import Endpoint, Observer

# Number of waiting requests considered for merging.
_MERGE_DEPTH = 128
# A call that takes this many times its p95 hangs. Abandoning it earlier would only add work.
_OVERDUE = 2.0


@dataclass(slots=True, eq=False)
class VariantCall:
    """One call of a variant for one or more requests.

    Attributes:
        attempts: the attempt number of each request; a request with another number has left this call.
        live: number of requests that still wait for it.
        abandoned: it runs on although no request waits for it.
    """

    queue: VariantQueue
    requests: list[RoutedRequest]
    started: float
    attempts: list[int] = field(init=False)
    rows: int = field(init=False)
    live: int = field(init=False)
    abandoned: bool = False

    def __post_init__(self) -> None:
        self.attempts = [request.attempt for request in self.requests]
        self.rows = sum(request.rows for request in self.requests)
        self.live = len(self.requests)

    def inputs(self) -> Tensors:
        """The concatenated inputs of its requests."""
        if len(self.requests) == 1:
            return self.requests[0].inputs
        inputs = [request.inputs for request in self.requests]
        return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}

    def outputs_of(self, request: RoutedRequest, row: int, outputs: Tensors) -> Tensors:
        """The outputs of one request, whose first row in the call is ``row``."""
        if len(self.requests) == 1:
            return outputs
        return {name: array[row : row + request.rows] for name, array in outputs.items()}

    def rows_not_finite(self, outputs: Tensors) -> Sequence[int]:
        """The rows with a value that is not a finite number. Raises ``CallError`` if a row is missing."""
        if any(len(array) != self.rows for array in outputs.values()):
            raise CallError(Fault.ERROR, f"{self.queue.name} returned a number of rows that differs from its input")
        bad = np.zeros(self.rows, dtype=np.bool_)
        for array in outputs.values():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                bad |= ~np.isfinite(array.reshape(self.rows, -1)).all(axis=1)
        found: list[int] = np.flatnonzero(bad).tolist()
        return found

    def waiting_requests(self) -> list[tuple[int, RoutedRequest]]:
        """The requests that still wait, each with the index of its first row in the call."""
        found, row = [], 0
        for request, attempt in zip(self.requests, self.attempts, strict=True):
            if request.attempt == attempt:
                found.append((row, request))
            row += request.rows
        return found


class VariantQueue(Endpoint):
    """Queue and calls of one variant or canary."""

    def __init__(self, name: str, variant: Variant, observer: Observer) -> None:
        super().__init__(name, variant, observer)
        self.waiting_rows = 0
        self.abandoned_calls = 0
        self._calls: set[VariantCall] = set()
        self._call_of: dict[RoutedRequest, VariantCall] = {}
        self._waiting: deque[tuple[RoutedRequest, int]] = deque()

    def point_ms(self, rows: int, now: float) -> float:
        """Expected time until a request that arrives now is served."""
        limits = self.variant.limits
        return self.latency.queue_ms(
            rows,
            waiting=self.waiting_rows,
            free=len(self._calls) < limits.max_calls_in_flight,
            running=[(call.rows, call.started) for call in self._calls],
            limits=limits,
            now=now,
        )

    def health(self, now: float) -> Health:  # noqa: ARG002 - probes are copies of requests, whenever they are due
        if self.breaker.state is not BreakerState.CLOSED:
            return Health.BREAKER_OPEN
        full = self.waiting_rows >= self.variant.limits.max_waiting_rows
        return Health.SATURATED if full or not self.may_abandon else Health.READY

    @property
    def may_abandon(self) -> bool:
        """Whether another call may be abandoned."""
        return self.abandoned_calls < self.variant.limits.max_abandoned_calls

    def latest_end(self, request: RoutedRequest) -> float:
        """The latest time at which a request leaves."""
        return min(request.placed + self.variant.limits.timeout_ms / 1000, request.deadline)

    def leave_at(self, request: RoutedRequest, now: float) -> float:
        """When a request leaves without a response: while another variant can still respond in time."""
        assert request.selection is not None
        leave_at, reserve_ms = self.latest_end(request), request.selection.decision.reserve_ms
        if request.sla_at is not None and reserve_ms is not None:
            share_ends = request.sla_at - reserve_ms / 1000
            # With no time to spare, waiting here is the best chance.
            if share_ends > now + request.point_ms / 1000:
                leave_at = min(leave_at, share_ends)
        return leave_at

    def overdue_at(self, request: RoutedRequest, now: float) -> float:
        """When the request's call counts as hanging; ``now`` for a request that still waits."""
        call = self._call_of.get(request)
        if call is None:
            return now
        return call.started + _OVERDUE * self.latency.p95_ms(self.latency.call_ms(call.rows, now), now) / 1000

    def append(self, request: RoutedRequest, *, first: bool = False) -> None:
        """Add a waiting request."""
        entry = (request, request.attempt)
        if first:
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)
        self.waiting_rows += request.rows

    def next_call(self, now: float) -> VariantCall | None:
        """Start the next merged call, if a slot is free and requests wait."""
        if len(self._calls) >= self.variant.limits.max_calls_in_flight:
            return None
        requests = self._take(now)
        return self.start(requests, now) if requests else None

    def start(self, requests: list[RoutedRequest], now: float) -> VariantCall:
        """Count a call as in flight, even if no slot is free."""
        call = VariantCall(self, requests, now)
        self._calls.add(call)
        for request in requests:
            self._call_of[request] = call
        return call

    def ended(self, call: VariantCall) -> None:
        """Record that a call returned."""
        for request in call.requests:
            if self._call_of.get(request) is call:
                del self._call_of[request]
        if call.abandoned:
            self.abandoned_calls -= 1
        else:
            self._calls.discard(call)

    def leave(self, request: RoutedRequest) -> VariantCall | None:
        """End a request's attempt; returns its call if that is abandoned now."""
        call = self._call_of.pop(request, None)
        if call is None:
            self.waiting_rows -= request.rows
            return None
        call.live -= 1
        if call.live:
            return None
        call.abandoned = True
        self._calls.discard(call)
        self.abandoned_calls += 1
        return call

    def drain(self) -> list[RoutedRequest]:
        """Remove all waiting requests."""
        requests = [request for request, attempt in self._waiting if request.attempt == attempt]
        self._waiting.clear()
        self.waiting_rows = 0
        return requests

    def _take(self, now: float) -> list[RoutedRequest]:
        """The first waiting request and later ones that may share its call and its time."""
        taken: list[RoutedRequest] = []
        rows = 0
        tightest = math.inf
        skipped: list[tuple[RoutedRequest, int]] = []
        for _ in range(min(len(self._waiting), _MERGE_DEPTH)):
            request, attempt = entry = self._waiting.popleft()
            if request.attempt != attempt:
                continue
            if not taken or (
                self._fits(rows + request.rows, tightest, request, now) and taken[0].can_merge_with(request)
            ):
                taken.append(request)
                rows += request.rows
                tightest = min(tightest, self._must_end(request, now))
            else:
                skipped.append(entry)
            if rows >= self.variant.limits.max_rows_per_call or taken[0].alone:
                break
        self._waiting.extendleft(reversed(skipped))
        self.waiting_rows -= rows
        return taken

    def _fits(self, rows: int, tightest: float, request: RoutedRequest, now: float) -> bool:
        if rows > self.variant.limits.max_rows_per_call:
            return False
        # A larger batch must not delay the requests already in it beyond their limit.
        return now + self.latency.call_ms(rows, now) / 1000 <= min(tightest, self._must_end(request, now))

    def _must_end(self, request: RoutedRequest, now: float) -> float:
        """When a call with this request must end; infinity for one that will be late in any case.

        Late requests go in full calls; otherwise a queue that is too long would never get shorter.
        """
        sla_at = request.sla_at
        if sla_at is None or now + self.latency.call_ms(request.rows, now) / 1000 > sla_at:
            return math.inf
        return sla_at
