"""The router at work: places requests, merges them into calls, leaves late and sick variants, answers.

One lock guards all state and is held for microseconds; calls, replies and waits happen outside of it. A variant is
called from a thread of its own, since a call cannot be cancelled: when its time is over its requests go on to the
next variant, and the thread is left with it (``Limits.max_abandoned_calls`` bounds how many).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np

from trireme_backends.errors import BackendError, RequestError
from trireme_backends.routing.breaker import BreakerState
from trireme_backends.routing.cascade import confidence
from trireme_backends.routing.decision import Reason, asked_tier
from trireme_backends.routing.errors import CallError, Fault, LimitError, UnavailableError
from trireme_backends.routing.lane import Call, Lane
from trireme_backends.routing.lanes import Lanes
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.route import Route, Tier
from trireme_backends.routing.traffic import Traffic, TrafficFile
from trireme_backends.routing.work import Answer, FirstAnswer, Job, RowRoute, Tensors, Ticket, Tried, describe
from trireme_backends.routing.workers import Timer, Workers


class CallVariant(Protocol):
    """Calls a model and waits for its answer."""

    def __call__(self, variant: str, inputs: Tensors, parameters: str, request_id: str) -> Tensors:
        """Outputs by name, [rows, ...] each. Raises ``CallError``."""


class Observer(Protocol):
    """Is told what happens, from any thread."""

    def replied(self, route: RowRoute, *, seen_ms: float, request_id: str) -> None: ...
    def refused(self, error: BackendError, *, request_id: str) -> None: ...
    def called(self, variant: str, outcome: str, *, rows: int) -> None: ...
    def predicted(self, variant: str, *, p95_ms: float, seen_ms: float) -> None: ...
    def breaker(self, variant: str, state: BreakerState) -> None: ...
    def traffic_error(self, message: str) -> None: ...


class Dispatcher:
    """Answers the tickets of one route.

    Example:
        >>> dispatcher = Dispatcher(route, call=call, pins=pins, traffic=traffic, observer=observer)
        >>> dispatcher.submit([ticket])  # returns at once; ticket.reply is called later
    """

    def __init__(
        self, route: Route, *, call: CallVariant, pins: Pins, traffic: TrafficFile, observer: Observer
    ) -> None:
        self._route = route
        self._call_variant = call
        self._pins = pins
        self._traffic = traffic
        self._observer = observer
        self._lock = threading.Lock()
        self._lanes = Lanes(route, pins)
        self._workers = Workers()
        self._timer = Timer()
        # What must happen once the lock is released, in order.
        self._outbox: list[Callable[[], None]] = []
        self._replies: list[Callable[[], None]] = []

    def close(self) -> None:
        """End the threads that are idle; the others end with their call."""
        self._timer.close()
        self._workers.close()

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Take requests in and return at once; each is replied to exactly once."""
        now = time.monotonic()
        with self._lock:
            traffic = self._current_traffic()
            for ticket in tickets:
                job = Job(ticket, self._first_tier(ticket))
                if ticket.ask.decide_only:
                    self._only_decide(job, traffic, now)
                else:
                    self._place(job, traffic, now)
                    self._send_probes(ticket, now)
        self._deliver()

    def waiting_rows(self) -> Mapping[str, int]:
        """By variant and canary, the rows that wait for a call."""
        with self._lock:
            return {lane.name: lane.waiting_rows for lane in self._lanes}

    def _deliver(self) -> None:
        with self._lock:
            effects, self._outbox = self._outbox, []
            replies, self._replies = self._replies, []
        for effect in effects:
            effect()
        # Sending waits until the server has taken the answer: the answers of a merged call go side by side.
        for reply in replies[1:]:
            self._workers.run(reply)
        if replies:
            replies[0]()

    def _run(self, call: Call) -> None:
        """Make one call, in a thread of its own."""
        lane = call.lane
        version = self._pins.pin(lane.name).version
        alone = call.jobs[0].ticket if len(call.jobs) == 1 else None
        outcome: Tensors | CallError
        broken: Sequence[int] = ()
        try:
            outcome = self._call_variant(
                lane.name, _merged(call.jobs), call.jobs[0].ticket.parameters, alone.request_id if alone else ""
            )
            if any(len(array) != call.rows for array in outcome.values()):
                outcome = CallError(Fault.ERROR, f"{lane.name} answered another number of rows than it was asked")
            else:
                broken = _broken_rows(outcome, call.rows)
        except CallError as error:
            outcome = error
        except Exception as error:  # whatever it is: the call must end, or its slot is lost
            outcome = CallError(Fault.ERROR, f"{lane.name}: {error!r}")
        now = time.monotonic()
        with self._lock:
            lane.ended(call)
            if not call.abandoned:
                lane.estimator.call_ended(rows=call.rows, call_ms=(now - call.started) * 1000, now=now)
            if isinstance(outcome, CallError):
                self._failed(call, outcome, now)
                self._start_calls(lane, now)
            else:
                # The variant gets its next call before the answers of this one are handed out.
                self._start_calls(lane, now)
                self._succeeded(call, outcome, broken, version, now)
        self._deliver()
        self._observer.called(
            lane.name, outcome.fault.value if isinstance(outcome, CallError) else "ok", rows=call.rows
        )

    def _time_is_over(self, job: Job, lane: Lane, attempt: int) -> None:
        """A job's share of the time has passed: it leaves if it still waits, or if its call hangs."""
        with self._lock:
            if job.attempt == attempt:
                now = time.monotonic()
                stay_until = min(lane.overdue_at(job, now), self._lanes.latest(job, lane))
                if stay_until > now:
                    self._watch(job, lane, stay_until)
                else:
                    self._leave(job, lane, now)
        self._deliver()

    # Everything below is called with the lock held.

    def _first_tier(self, ticket: Ticket) -> Tier | None:
        tier = asked_tier(self._route, ticket.ask)
        return self._route.cascade.first_tier if tier is None and self._route.cascade else tier

    def _current_traffic(self) -> Traffic:
        errors = self._traffic.errors
        traffic = self._traffic.current()
        if self._traffic.errors != errors:
            self._outbox.append(functools.partial(self._observer.traffic_error, str(self._traffic.last_error)))
        return traffic

    def _only_decide(self, job: Job, traffic: Traffic, now: float) -> None:
        ticket = job.ticket
        try:
            decision = job.decision = self._lanes.decide(job, now)
        except BackendError as error:
            self._refuse(ticket, error)
            return
        name = self._lanes.side(job, decision.variant, traffic).name
        route = describe(job, name, self._pins.pin(name).version, decision.reason)
        self._replies.append(functools.partial(ticket.reply, Answer({}, [route] * ticket.rows)))

    def _place(self, job: Job, traffic: Traffic, now: float) -> None:
        """Let a job wait before the best variant, or end it where there is none."""
        try:
            decision = self._lanes.decide(job, now)
        except (LimitError, UnavailableError) as error:
            self._give_up(job, error)
            return
        if job.first_answer and decision.reason is Reason.SLA_AT_RISK:
            self._give_up(job, UnavailableError("no time is left to ask the second tier"))
            return
        lane = self._lanes.side(job, decision.variant, traffic)
        job.decision = decision
        job.placed = now
        job.point_ms = lane.point_ms(job.count, now)
        lane.append(job)
        self._watch(job, lane, self._lanes.leave_at(job, lane, now))
        self._start_calls(lane, now)

    def _watch(self, job: Job, lane: Lane, moment: float) -> None:
        attempt = job.attempt
        self._timer.at(
            moment, lambda: job.attempt == attempt, functools.partial(self._time_is_over, job, lane, attempt)
        )

    def _start_calls(self, lane: Lane, now: float) -> None:
        while call := lane.next_call(now):
            self._outbox.append(functools.partial(self._workers.run, functools.partial(self._run, call)))

    def _send_probes(self, ticket: Ticket, now: float) -> None:
        """Copies of a request for variants whose rest is over; the caller does not wait for them."""
        for lane in self._lanes:
            if lane.may_probe and lane.breaker.probe_due(now):
                lane.breaker.probe_sent()
                self._outbox.append(functools.partial(self._observer.breaker, lane.name, lane.breaker.state))
                job = Job(ticket, None, probe=True, placed=now)
                call = lane.start([job], now)
                self._outbox.append(functools.partial(self._workers.run, functools.partial(self._run, call)))
                self._watch(job, lane, self._lanes.latest(job, lane))

    def _succeeded(self, call: Call, outputs: Tensors, broken: Sequence[int], version: str, now: float) -> None:
        lane = call.lane
        if broken and any(job.probe for job in call.jobs):
            self._sick(lane, now)
        elif not broken and not call.abandoned:
            self._change_breaker(lane, lane.breaker.succeeded)
        for row, job in call.waiting_jobs():
            mine_broken = next((index - row for index in broken if row <= index < row + job.count), None)
            if mine_broken is not None:
                asked = mine_broken if job.rows is None else job.rows[mine_broken]
                message = f"{lane.name} answered row {asked} with a value that is not a finite number"
                self._next_variant(job, lane, Fault.NOT_FINITE, message, now)
                continue
            job.attempt += 1
            if not job.probe:
                whole = len(call.jobs) == 1
                mine = outputs if whole else {name: array[row : row + job.count] for name, array in outputs.items()}
                self._answered(job, lane, mine, version, now)

    def _answered(self, job: Job, lane: Lane, outputs: Tensors, version: str, now: float) -> None:
        ticket, decision = job.ticket, job.decision
        assert decision is not None
        seen_ms = (now - job.placed) * 1000
        lane.estimator.answered(point_ms=job.point_ms, seen_ms=seen_ms, now=now)
        self._lanes.answered(job, now)
        self._outbox.append(
            functools.partial(self._observer.predicted, lane.name, p95_ms=decision.predicted_p95_ms, seen_ms=seen_ms)
        )
        for tried in job.tried:
            # This variant answers what that one failed on: it was not the request.
            if tried.fault.may_be_request:
                self._sick(self._lanes.named(tried.variant), now)
        cascade = self._route.cascade
        if job.first_answer:
            self._second_answer(job, lane, outputs, version, seen_ms)
        elif cascade and asked_tier(self._route, ticket.ask) is None and decision.variant.tier is cascade.first_tier:
            self._first_answer(job, lane, outputs, version, seen_ms, now)
        else:
            ticket.outputs = dict(outputs)
            ticket.routes = [describe(job, lane.name, version, decision.reason, seen_ms=seen_ms)] * ticket.rows
            self._reply(ticket, now)

    def _first_answer(self, job: Job, lane: Lane, outputs: Tensors, version: str, seen_ms: float, now: float) -> None:
        """Keep the rows of which the first tier is sure; the others go up."""
        ticket, cascade = job.ticket, self._route.cascade
        assert cascade is not None
        sure = confidence(outputs[cascade.confidence_output], cascade.temperature)
        ticket.outputs = dict(outputs)
        ticket.routes = [
            describe(job, lane.name, version, Reason.CASCADE_SURE, seen_ms=seen_ms, confidence=value)
            for value in sure.tolist()
        ]
        unsure = np.flatnonzero(sure < cascade.threshold)
        if not len(unsure):
            self._reply(ticket, now)
            return
        first = FirstAnswer(job, lane.name, version, seen_ms, sure[unsure])
        up = Job(ticket, cascade.second_tier, rows=unsure, first_answer=first)
        self._place(up, self._current_traffic(), now)

    def _second_answer(self, job: Job, lane: Lane, outputs: Tensors, version: str, seen_ms: float) -> None:
        ticket, first = job.ticket, job.first_answer
        assert first is not None
        assert ticket.outputs is not None
        if any(array.shape[1:] != ticket.outputs[name].shape[1:] for name, array in outputs.items()):
            self._give_up(job, UnavailableError("the answers of the two tiers cannot stand in one tensor"))
            return
        for name, array in outputs.items():
            whole = np.array(ticket.outputs[name])
            whole[job.rows] = array
            ticket.outputs[name] = whole
        self._tell(job, first, Reason.CASCADE_ESCALATED, job, lane.name, version, seen_ms)

    def _failed(self, call: Call, error: CallError, now: float) -> None:
        lane = call.lane
        jobs = [job for _, job in call.waiting_jobs()]
        if not error.fault.may_be_request or any(job.probe for job in jobs):
            self._sick(lane, now, surely=error.fault in (Fault.NOT_READY, Fault.UNHEALTHY))
        elif len(jobs) > 1 and lane.breaker.state is BreakerState.CLOSED:
            # One bad row must fail alone: each request goes again by itself.
            for job in reversed(jobs):
                job.alone = True
                lane.append(job, first=True)
            return
        for job in jobs:
            self._next_variant(job, lane, error.fault, str(error), now)

    def _leave(self, job: Job, lane: Lane, now: float) -> None:
        waited_ms = (now - job.placed) * 1000
        abandoned = lane.leave(job)
        if not job.probe:
            lane.estimator.answered(point_ms=job.point_ms, seen_ms=waited_ms, now=now)
        if abandoned is not None:
            # What is not back yet takes at least that long.
            lane.estimator.call_ended(rows=abandoned.rows, call_ms=(now - abandoned.started) * 1000, now=now)
            self._sick(lane, now, surely=not lane.may_probe)
        self._next_variant(job, lane, Fault.LATE, f"{lane.name} did not answer within {waited_ms:.0f} ms", now)
        self._start_calls(lane, now)

    def _sick(self, lane: Lane, now: float, *, surely: bool = False) -> None:
        """Count a failure; when that opens the breaker, move what waits."""
        self._change_breaker(lane, functools.partial(lane.breaker.failed, now, surely=surely))
        if lane.breaker.state is not BreakerState.CLOSED:
            for job in lane.drain():
                self._next_variant(job, lane, Fault.BREAKER_OPEN, f"{lane.name} turned out sick", now)

    def _change_breaker(self, lane: Lane, change: Callable[[], None]) -> None:
        before = lane.breaker.state
        change()
        if lane.breaker.state is not before:
            self._outbox.append(functools.partial(self._observer.breaker, lane.name, lane.breaker.state))

    def _next_variant(self, job: Job, lane: Lane, fault: Fault, message: str, now: float) -> None:
        job.attempt += 1
        if job.probe:
            return
        # One of a merged call may be what ended the variant's process: the others must not share its next call.
        job.alone = fault is Fault.UNHEALTHY
        job.first_error = job.first_error or message
        job.tried.append(Tried(lane.name, fault, (now - job.placed) * 1000))
        if sum(tried.fault is Fault.ERROR for tried in job.tried) > 1:
            # Two variants say so: it lies in the request, and more calls would only cost.
            self._give_up(job, RequestError(message))
        elif sum(tried.fault is Fault.UNHEALTHY for tried in job.tried) > 1:
            # It may be what ends them. Envoy and the client know the first words.
            self._give_up(job, CallError(fault, f"not sent again: this request was lost with 2 processes; {message}"))
        elif now >= job.ticket.deadline:
            self._give_up(job, UnavailableError(message))
        else:
            self._place(job, self._current_traffic(), now)

    def _give_up(self, job: Job, error: BackendError) -> None:
        """Nobody is left to ask: an unsure first answer stands, without one the request fails."""
        first = job.first_answer
        if first is not None:
            self._tell(job, first, Reason.CASCADE_KEPT, first.job, first.variant, first.version, first.seen_ms)
        elif job.tried and isinstance(error, UnavailableError):
            # Why the variant failed that was chosen first explains more than what came of falling back.
            fault = job.tried[0].fault
            failed = fault.may_be_request
            self._refuse(job.ticket, CallError(fault, job.first_error) if failed else UnavailableError(job.first_error))
        else:
            self._refuse(job.ticket, error)

    def _tell(
        self, job: Job, first: FirstAnswer, reason: Reason, by: Job, variant: str, version: str, seen_ms: float
    ) -> None:
        """Write down who answered the rows that were unsure, and reply."""
        assert job.rows is not None
        for row, value in zip(job.rows.tolist(), first.confidence.tolist(), strict=True):
            job.ticket.routes[row] = describe(by, variant, version, reason, seen_ms=seen_ms, confidence=value)
        self._reply(job.ticket, time.monotonic())

    def _reply(self, ticket: Ticket, now: float) -> None:
        assert ticket.outputs is not None
        self._replies.append(functools.partial(ticket.reply, Answer(ticket.outputs, ticket.routes)))
        seen_ms = (now - ticket.arrived) * 1000
        for route in {id(route): route for route in ticket.routes}.values():
            self._outbox.append(
                functools.partial(self._observer.replied, route, seen_ms=seen_ms, request_id=ticket.request_id)
            )

    def _refuse(self, ticket: Ticket, error: BackendError) -> None:
        self._replies.append(functools.partial(ticket.reply, error))
        self._outbox.append(functools.partial(self._observer.refused, error, request_id=ticket.request_id))


def _merged(jobs: Sequence[Job]) -> Tensors:
    if len(jobs) == 1:
        return jobs[0].inputs
    inputs = [job.inputs for job in jobs]
    return {name: np.concatenate([one[name] for one in inputs]) for name in inputs[0]}


def _broken_rows(outputs: Tensors, rows: int) -> Sequence[int]:
    """The rows that hold a value which is not a finite number."""
    broken = np.zeros(rows, dtype=np.bool_)
    for array in outputs.values():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            broken |= ~np.isfinite(array.reshape(rows, -1)).all(axis=1)
    found: list[int] = np.flatnonzero(broken).tolist()
    return found
