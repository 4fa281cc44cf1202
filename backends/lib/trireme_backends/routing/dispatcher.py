"""Serves requests by calling variants: queues and merges them, and retries failed ones on other variants.

One lock guards all state and is held for microseconds; calls, replies and waits happen outside of it. Each call of a
variant runs in a thread, since it cannot be cancelled: when its time is over, its requests move to the next variant and
the call is abandoned with its thread (``Limits.max_abandoned_calls`` limits how many).
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from trireme_backends.errors import BackendError, RequestError
from trireme_backends.routing.breaker import BreakerState
from trireme_backends.routing.cascade import confidence
from trireme_backends.routing.decision import Reason, requested_tier
from trireme_backends.routing.errors import CallError, Fault, LimitError, UnavailableError
from trireme_backends.routing.latency import TimeBudget
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.request import FailedAttempt, FirstTierResult, RoutedRequest, RoutedResult, Tensors
from trireme_backends.routing.route import Route
from trireme_backends.routing.selection import Observer, Selection, Selector
from trireme_backends.routing.threads import ThreadPool, Timer
from trireme_backends.routing.traffic import TrafficFile
from trireme_backends.routing.variant_queue import VariantCall, VariantQueue

# Maps variant, inputs, parameters as JSON and request id to outputs, [rows, ...] each. Raises ``CallError``.
CallVariant = Callable[[str, Tensors, str, str], Tensors]


class Dispatcher:
    """Serves the requests of one route.

    Example:
        >>> dispatcher = Dispatcher(route, call=call, pins=pins, traffic=traffic, observer=observer)
        >>> dispatcher.submit([request])  # returns at once; request.reply is called later
    """

    def __init__(
        self, route: Route, *, call: CallVariant, pins: Pins, traffic: TrafficFile, observer: Observer
    ) -> None:
        self._route = route
        self._call_variant = call
        self._pins = pins
        self._observer = observer
        self._selector = Selector(route, VariantQueue, pins=pins, traffic=traffic, observer=observer)
        self._budget = TimeBudget()
        self._lock = threading.Lock()
        self._threads = ThreadPool()
        self._timer = Timer()
        # Calls to make and replies to send once the lock is released.
        self._calls: list[VariantCall] = []
        self._replies: list[Callable[[], None]] = []

    def close(self) -> None:
        """End the idle threads; busy ones end with their call."""
        self._timer.close()
        self._threads.close()

    def submit(self, requests: Sequence[RoutedRequest]) -> None:
        """Accept requests and return at once; each gets exactly one reply."""
        now = time.monotonic()
        with self._lock:
            self._selector.check_traffic()
            for request in requests:
                request.tier = requested_tier(self._route, request.parameters)
                if request.tier is None and self._route.cascade:
                    request.tier = self._route.cascade.first_tier
                if request.parameters.decide_only:
                    self._only_decide(request, now)
                else:
                    self._place(request, now)
                    self._send_probes(request, now)
        self._deliver()

    def waiting_rows(self) -> Mapping[str, int]:
        """Rows that wait for a call, by variant and canary."""
        with self._lock:
            return {queue.name: queue.waiting_rows for queue in self._selector.endpoints.values()}

    def _deliver(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, []
            replies, self._replies = self._replies, []
        for call in calls:
            self._threads.run(functools.partial(self._run, call))
        # Sending blocks until the server has the response: the responses of a merged call are sent in parallel.
        for reply in replies[1:]:
            self._threads.run(reply)
        if replies:
            replies[0]()

    def _run(self, call: VariantCall) -> None:
        """Make one call in its own thread."""
        queue, first = call.queue, call.requests[0]
        version = self._pins.pin(queue.name).version
        outcome: Tensors | CallError
        not_finite: Sequence[int] = ()
        try:
            request_id = first.request_id if len(call.requests) == 1 else ""
            outcome = self._call_variant(queue.name, call.inputs(), first.variant_parameters, request_id)
            not_finite = call.rows_not_finite(outcome)
        except CallError as error:
            outcome = error
        except Exception as error:  # any error must end the call, or its slot is lost
            outcome = CallError(Fault.ERROR, f"{queue.name}: {error!r}")
        now = time.monotonic()
        with self._lock:
            queue.ended(call)
            if not call.abandoned:
                queue.latency.call_ended(rows=call.rows, call_ms=(now - call.started) * 1000, now=now)
            if isinstance(outcome, CallError):
                self._failed(call, outcome, now)
                self._start_calls(queue, now)
            else:
                # The variant gets its next call before the responses of this one are sent.
                self._start_calls(queue, now)
                self._succeeded(call, outcome, not_finite, version, now)
        self._deliver()
        self._observer.called(
            queue.name, outcome.fault.value if isinstance(outcome, CallError) else "ok", rows=call.rows
        )

    def _time_is_over(self, request: RoutedRequest, queue: VariantQueue, attempt: int) -> None:
        """A request's share of the time is over: remove it if it still waits, or if its call hangs."""
        with self._lock:
            if request.attempt == attempt:
                now = time.monotonic()
                stay_until = min(queue.overdue_at(request, now), queue.latest_end(request))
                if stay_until > now:
                    self._watch(request, queue, stay_until)
                else:
                    self._leave(request, queue, now)
        self._deliver()

    # Everything below is called with the lock held.

    def _select(self, request: RoutedRequest, now: float) -> Selection[VariantQueue]:
        ends_at = request.deadline if request.sla_at is None else request.sla_at
        selection = self._selector.select(
            request.parameters,
            lambda queue: queue.latency.p95_ms(queue.point_ms(request.rows, now), now),
            tier=request.tier,
            time_left_ms=(ends_at - now) * 1000,
            tried=request.tried,
            now=now,
            time_share=self._budget.share(now),
        )
        if selection.decision.reason is Reason.SLA_AT_RISK:
            self._count_late(request, selection, now)
        return selection

    def _count_late(self, request: RoutedRequest, selection: Selection[VariantQueue], now: float) -> None:
        """Cut the time budget, unless the SLA was out of reach even without a queue."""
        call_ms = self._selector.endpoints[selection.decision.variant.name].latency.call_ms(request.rows, now)
        max_latency_ms = request.parameters.max_latency_ms
        if max_latency_ms is not None and call_ms <= max_latency_ms / 2:
            self._budget.cut(now)

    def _only_decide(self, request: RoutedRequest, now: float) -> None:
        try:
            selection = request.selection = self._select(request, now)
        except BackendError as error:
            self._reject(request, error)
            return
        outputs = request.outputs(self._pins.pin(selection.endpoint.name).version, selection.decision.reason)
        self._replies.append(functools.partial(request.reply, RoutedResult({}, [outputs] * request.rows)))

    def _place(self, request: RoutedRequest, now: float) -> None:
        """Queue a request for the best variant; fail it if no variant is available."""
        try:
            selection = self._select(request, now)
        except (LimitError, UnavailableError) as error:
            self._give_up(request, error)
            return
        if request.first_tier_result and selection.decision.reason is Reason.SLA_AT_RISK:
            self._give_up(request, UnavailableError("no time is left to call the second tier"))
            return
        queue = selection.endpoint
        request.selection = selection
        request.placed = now
        request.point_ms = queue.point_ms(request.rows, now)
        queue.append(request)
        self._watch(request, queue, queue.leave_at(request, now))
        self._start_calls(queue, now)

    def _watch(self, request: RoutedRequest, queue: VariantQueue, moment: float) -> None:
        attempt = request.attempt
        self._timer.at(
            moment,
            lambda: request.attempt == attempt,
            functools.partial(self._time_is_over, request, queue, attempt),
        )

    def _start_calls(self, queue: VariantQueue, now: float) -> None:
        while call := queue.next_call(now):
            self._calls.append(call)

    def _send_probes(self, request: RoutedRequest, now: float) -> None:
        """Send copies of a request to variants with a probe due; the caller does not wait for them."""
        for queue in self._selector.endpoints.values():
            if queue.may_abandon and queue.breaker.probe_due(now):
                queue.breaker.probe_sent()
                probe = replace(request, probe=True)
                probe.placed = now
                self._calls.append(queue.start([probe], now))
                self._watch(probe, queue, queue.latest_end(probe))

    def _succeeded(
        self, call: VariantCall, outputs: Tensors, not_finite: Sequence[int], version: str, now: float
    ) -> None:
        queue = call.queue
        if not_finite and any(request.probe for request in call.requests):
            self._count_failure(queue, now)
        elif not not_finite and not call.abandoned:
            queue.breaker.succeeded()
        for row, request in call.waiting_requests():
            bad_row = next((index - row for index in not_finite if row <= index < row + request.rows), None)
            if bad_row is not None:
                if request.first_tier_result:
                    bad_row = int(request.first_tier_result.unsure[bad_row])
                message = f"{queue.name} returned a value in row {bad_row} that is not a finite number"
                self._retry(request, queue, Fault.NOT_FINITE, message, now)
                continue
            request.attempt += 1
            if not request.probe:
                self._answered(request, queue, call.outputs_of(request, row, outputs), version, now)

    def _answered(
        self, request: RoutedRequest, queue: VariantQueue, outputs: Tensors, version: str, now: float
    ) -> None:
        assert request.selection is not None
        decision = request.selection.decision
        seen_ms = (now - request.placed) * 1000
        queue.latency.request_ended(point_ms=request.point_ms, seen_ms=seen_ms, now=now)
        if request.sla_at is not None and now > request.sla_at:
            self._count_late(request, request.selection, now)
        self._observer.predicted(queue.name, p95_ms=decision.predicted_p95_ms, seen_ms=seen_ms)
        for attempt in request.failed:
            # This variant served what that one failed: the request was not the cause.
            if attempt.fault.may_be_request:
                self._count_failure(self._selector.endpoints[attempt.variant], now)
        cascade = self._route.cascade
        if request.first_tier_result:
            self._escalated(request, request.first_tier_result, outputs, version, seen_ms)
        elif (
            cascade
            and requested_tier(self._route, request.parameters) is None
            and decision.variant.tier is cascade.first_tier
        ):
            self._escalate(request, outputs, version, seen_ms, now)
        else:
            route = request.outputs(version, decision.reason, seen_ms=seen_ms)
            self._reply(request, RoutedResult(outputs, [route] * request.rows), now)

    def _escalate(self, request: RoutedRequest, outputs: Tensors, version: str, seen_ms: float, now: float) -> None:
        """Keep the rows of which the first tier is confident; send the others to the second."""
        cascade = self._route.cascade
        assert cascade is not None
        sure = confidence(outputs[cascade.confidence_output], cascade.temperature)
        routes = [
            request.outputs(version, Reason.CASCADE_SURE, seen_ms=seen_ms, confidence=value) for value in sure.tolist()
        ]
        result = RoutedResult(outputs, routes)
        unsure = np.flatnonzero(sure < cascade.threshold)
        if not len(unsure):
            self._reply(request, result, now)
            return
        escalated = replace(
            request,
            inputs={name: array[unsure] for name, array in request.inputs.items()},
            rows=len(unsure),
            tier=cascade.second_tier,
            first_tier_result=FirstTierResult(request, result, version, seen_ms, unsure, sure[unsure]),
        )
        self._selector.check_traffic()
        self._place(escalated, now)

    def _escalated(
        self, request: RoutedRequest, first: FirstTierResult, outputs: Tensors, version: str, seen_ms: float
    ) -> None:
        """Merge the second tier's outputs into the first's."""
        whole = first.result.outputs
        if any(array.shape[1:] != whole[name].shape[1:] for name, array in outputs.items()):
            self._give_up(request, UnavailableError("the outputs of the two tiers do not fit into one tensor"))
            return
        merged = {name: np.array(whole[name]) for name in outputs}
        for name, array in outputs.items():
            merged[name][first.unsure] = array
        route = functools.partial(request.outputs, version, Reason.CASCADE_ESCALATED, seen_ms=seen_ms)
        self._reply(first.request, first.with_routes({**whole, **merged}, route), time.monotonic())

    def _failed(self, call: VariantCall, error: CallError, now: float) -> None:
        queue = call.queue
        requests = [request for _, request in call.waiting_requests()]
        if not error.fault.may_be_request or any(request.probe for request in requests):
            self._count_failure(queue, now, is_proof=error.fault in (Fault.NOT_READY, Fault.UNHEALTHY))
        elif len(requests) > 1 and queue.breaker.state is BreakerState.CLOSED:
            # A bad row must fail alone: each request is sent again separately.
            for request in reversed(requests):
                request.alone = True
                queue.append(request, first=True)
            return
        for request in requests:
            self._retry(request, queue, error.fault, str(error), now)

    def _leave(self, request: RoutedRequest, queue: VariantQueue, now: float) -> None:
        waited_ms = (now - request.placed) * 1000
        abandoned = queue.leave(request)
        if not request.probe:
            queue.latency.request_ended(point_ms=request.point_ms, seen_ms=waited_ms, now=now)
        if abandoned is not None:
            # A pending call takes at least this long.
            queue.latency.call_ended(rows=abandoned.rows, call_ms=(now - abandoned.started) * 1000, now=now)
            self._count_failure(queue, now, is_proof=not queue.may_abandon)
        self._retry(request, queue, Fault.LATE, f"{queue.name} did not respond within {waited_ms:.0f} ms", now)
        self._start_calls(queue, now)

    def _count_failure(self, queue: VariantQueue, now: float, *, is_proof: bool = False) -> None:
        """Count a failure; if that opens the breaker, move the waiting requests to other variants."""
        queue.breaker.failed(now, is_proof=is_proof)
        if queue.breaker.state is not BreakerState.CLOSED:
            for request in queue.drain():
                self._retry(request, queue, Fault.BREAKER_OPEN, f"{queue.name} became unhealthy", now)

    def _retry(self, request: RoutedRequest, queue: VariantQueue, fault: Fault, message: str, now: float) -> None:
        """End a failed attempt; place the request again, or fail it."""
        request.attempt += 1
        if request.probe:
            return
        # One request of a merged call may have ended the variant's process: the others must not share its next call.
        request.alone = fault is Fault.UNHEALTHY
        request.first_error = request.first_error or message
        request.failed.append(FailedAttempt(queue.name, fault, (now - request.placed) * 1000))
        faults = [attempt.fault for attempt in request.failed]
        if faults.count(Fault.ERROR) > 1:
            # Two variants failed: the request is the cause, and more calls would only cost.
            self._give_up(request, RequestError(message))
        elif faults.count(Fault.UNHEALTHY) > 1:
            # The request may be what ends the processes. Envoy and the client match the first words.
            error = CallError(fault, f"not sent again: this request was lost with 2 processes; {message}")
            self._give_up(request, error)
        elif now >= request.deadline:
            self._give_up(request, UnavailableError(message))
        else:
            self._selector.check_traffic()
            self._place(request, now)

    def _give_up(self, request: RoutedRequest, error: BackendError) -> None:
        """No variant is left: send the first tier's result if there is one, otherwise fail the request."""
        first = request.first_tier_result
        if first is not None:
            route = functools.partial(first.request.outputs, first.version, Reason.CASCADE_KEPT, seen_ms=first.seen_ms)
            self._reply(first.request, first.with_routes(first.result.outputs, route), time.monotonic())
        elif request.failed and isinstance(error, UnavailableError):
            # The first failure explains more than that of the fallback.
            fault = request.failed[0].fault
            kept = request.first_error
            self._reject(request, CallError(fault, kept) if fault.may_be_request else UnavailableError(kept))
        else:
            self._reject(request, error)

    def _reply(self, request: RoutedRequest, result: RoutedResult, now: float) -> None:
        self._replies.append(functools.partial(request.reply, result))
        seen_ms = (now - request.arrived) * 1000
        for route in {id(route): route for route in result.routes}.values():
            self._observer.replied(route, seen_ms=seen_ms, request_id=request.request_id)

    def _reject(self, request: RoutedRequest, error: BackendError) -> None:
        self._replies.append(functools.partial(request.reply, error))
        self._observer.rejected(error, request_id=request.request_id)
