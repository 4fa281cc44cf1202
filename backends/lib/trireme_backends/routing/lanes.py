"""All lanes of a route: which one a job takes, and how long it may stay there."""

from __future__ import annotations

import random
from collections.abc import Iterator

from trireme_backends.routing.decision import Decision, Health, Reason, VariantState, decide
from trireme_backends.routing.headroom import Headroom
from trireme_backends.routing.lane import Lane
from trireme_backends.routing.pins import Pins
from trireme_backends.routing.route import Route, Variant
from trireme_backends.routing.traffic import Traffic, sticky_position
from trireme_backends.routing.work import Job


class Lanes:
    """The lanes to the variants and canaries. Whoever uses it holds the dispatcher's lock."""

    def __init__(self, route: Route, pins: Pins) -> None:
        self._route = route
        self._pins = pins
        self._lanes = {variant.name: Lane(variant.name, variant) for variant in route.variants}
        self._headroom = Headroom()

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes.values())

    def named(self, name: str) -> Lane:
        return self._lanes[name]

    def decide(self, job: Job, now: float) -> Decision:
        """The variant for a job, by the state of all lanes.

        Raises:
            LimitError, UnavailableError: see ``decision.decide``.
        """
        ticket = job.ticket
        ends = ticket.deadline if ticket.sla_at is None else ticket.sla_at
        tried = [tried.variant for tried in job.tried]
        if job.first_answer and job.first_answer.job.decision:
            # It has answered, and was not sure.
            tried.append(job.first_answer.job.decision.variant.name)
        states = {}
        for variant in self._route.variants:
            lane = self._lanes[variant.name]
            p95_ms = lane.estimator.p95_ms(lane.point_ms(job.count, now), now)
            states[variant.name] = VariantState(self._pins.quality(variant), p95_ms, lane.health)
        decision = decide(
            self._route,
            ticket.ask,
            states,
            tier=job.tier,
            time_left_ms=(ends - now) * 1000,
            tried=tried,
            headroom=self._headroom.share(now),
        )
        if decision.reason is Reason.SLA_AT_RISK:
            self._late(decision.variant, job, now)
        return decision

    def answered(self, job: Job, now: float) -> None:
        """A job's variant has answered it."""
        assert job.decision is not None
        if job.ticket.sla_at is not None and now > job.ticket.sla_at:
            self._late(job.decision.variant, job, now)

    def _late(self, variant: Variant, job: Job, now: float) -> None:
        # Of an SLA that could not be kept without any queue nobody else must be the worse for.
        call_ms = self._lanes[variant.name].estimator.call_ms(job.count, now)
        if job.ticket.ask.max_latency_ms is not None and call_ms <= job.ticket.ask.max_latency_ms / 2:
            self._headroom.late(now)

    def side(self, job: Job, variant: Variant, traffic: Traffic) -> Lane:
        """The variant's lane, or its canary's where the traffic says so and the canary is well."""
        stable = self._lanes[variant.name]
        if variant.name not in traffic.canary_percent:
            return stable
        key = job.ticket.ask.sticky_key
        position = random.random() * 100 if key is None else sticky_position(key)
        if not traffic.goes_to_canary(variant.name, position):
            return stable
        if variant.canary not in self._lanes:
            self._lanes[variant.canary] = Lane(variant.canary, variant)
        canary = self._lanes[variant.canary]
        tried = any(tried.variant == canary.name for tried in job.tried)
        return stable if tried or canary.health is not Health.READY else canary

    def latest(self, job: Job, lane: Lane) -> float:
        """When a job leaves a lane at the latest."""
        return min(job.placed + lane.variant.limits.timeout_ms / 1000, job.ticket.deadline)

    def leave_at(self, job: Job, lane: Lane, now: float) -> float:
        """When a job leaves a lane without an answer: while another variant can still answer in time."""
        ticket = job.ticket
        assert job.decision is not None
        leave_at = self.latest(job, lane)
        if ticket.sla_at is not None and job.decision.reserve_ms is not None:
            share_ends = ticket.sla_at - job.decision.reserve_ms / 1000
            # With no time to spare, waiting here is the best chance.
            if share_ends > now + job.point_ms / 1000:
                leave_at = min(leave_at, share_ends)
        return leave_at
