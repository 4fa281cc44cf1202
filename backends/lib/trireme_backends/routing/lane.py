"""The way to one variant: what waits before it, the calls that are in flight, and what is known of its state."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from trireme_backends.routing.breaker import BreakerState, CircuitBreaker
from trireme_backends.routing.decision import Health
from trireme_backends.routing.latency import LatencyEstimator
from trireme_backends.routing.route import Variant
from trireme_backends.routing.work import Job

# How far behind the first waiting request others are looked at for merging.
_MERGE_DEPTH = 128
# A call that has taken so many times its p95 is not slow, it hangs: to leave it sooner would only ask for more work.
_OVERDUE = 2.0


@dataclass(slots=True, eq=False)
class Call:
    """One call of a variant for one or more jobs.

    Attributes:
        attempts: for each job the number of its try; a job whose number went on has left this call.
        live: jobs that still wait for it. abandoned: it runs on, and nobody waits.
    """

    lane: Lane
    jobs: list[Job]
    started: float
    attempts: list[int] = field(init=False)
    rows: int = field(init=False)
    live: int = field(init=False)
    abandoned: bool = False

    def __post_init__(self) -> None:
        self.attempts = [job.attempt for job in self.jobs]
        self.rows = sum(job.count for job in self.jobs)
        self.live = len(self.jobs)

    def waiting_jobs(self) -> list[tuple[int, Job]]:
        """The jobs that still wait, each with the index of its first row in the call."""
        found, row = [], 0
        for job, attempt in zip(self.jobs, self.attempts, strict=True):
            if job.attempt == attempt:
                found.append((row, job))
            row += job.count
        return found


class Lane:
    """Queue, calls and state of one variant or canary. Whoever uses it holds the dispatcher's lock."""

    def __init__(self, name: str, variant: Variant) -> None:
        self.name = name
        self.variant = variant
        self.estimator = LatencyEstimator(variant.expected_latency_ms)
        self.breaker = CircuitBreaker()
        self.abandoned_calls = 0
        self._calls: set[Call] = set()
        self._call_of: dict[Job, Call] = {}
        self._waiting: deque[tuple[Job, int]] = deque()
        self._waiting_rows = 0

    def point_ms(self, rows: int, now: float) -> float:
        """Expected time to the answer of a request that arrives now."""
        limits = self.variant.limits
        return self.estimator.queue_ms(
            rows,
            waiting=self._waiting_rows,
            free=len(self._calls) < limits.max_calls_in_flight,
            running=[(call.rows, call.started) for call in self._calls],
            limits=limits,
            now=now,
        )

    def overdue_at(self, job: Job, now: float) -> float:
        """The moment from which a call that the job is in is taken to hang; ``now`` where the job still waits."""
        call = self._call_of.get(job)
        if call is None:
            return now
        return call.started + _OVERDUE * self.estimator.p95_ms(self.estimator.call_ms(call.rows, now), now) / 1000

    @property
    def health(self) -> Health:
        if self.breaker.state is not BreakerState.CLOSED:
            return Health.BREAKER_OPEN
        full = self._waiting_rows >= self.variant.limits.max_waiting_rows
        return Health.SATURATED if full or not self.may_probe else Health.READY

    @property
    def waiting_rows(self) -> int:
        """Rows that wait for a call."""
        return self._waiting_rows

    @property
    def may_probe(self) -> bool:
        """Whether one more call may be left running without anybody waiting for it."""
        return self.abandoned_calls < self.variant.limits.max_abandoned_calls

    def append(self, job: Job, *, first: bool = False) -> None:
        """Let a job wait."""
        entry = (job, job.attempt)
        if first:
            self._waiting.appendleft(entry)
        else:
            self._waiting.append(entry)
        self._waiting_rows += job.count

    def next_call(self, now: float) -> Call | None:
        """The next merged call, if a slot is free and something waits."""
        if len(self._calls) >= self.variant.limits.max_calls_in_flight:
            return None
        jobs = self._take(now)
        return self.start(jobs, now) if jobs else None

    def start(self, jobs: list[Job], now: float) -> Call:
        """Count a call as in flight, whether or not a slot is free."""
        call = Call(self, jobs, now)
        self._calls.add(call)
        for job in jobs:
            self._call_of[job] = call
        return call

    def ended(self, call: Call) -> None:
        """A call came back."""
        for job in call.jobs:
            if self._call_of.get(job) is call:
                del self._call_of[job]
        if call.abandoned:
            self.abandoned_calls -= 1
        else:
            self._calls.discard(call)

    def leave(self, job: Job) -> Call | None:
        """A job gives up its try; the call it was in, if nobody waits for that any more."""
        call = self._call_of.pop(job, None)
        if call is None:
            self._waiting_rows -= job.count
            return None
        call.live -= 1
        if call.live:
            return None
        call.abandoned = True
        self._calls.discard(call)
        self.abandoned_calls += 1
        return call

    def drain(self) -> list[Job]:
        """Take out all that waits."""
        jobs = [job for job, attempt in self._waiting if job.attempt == attempt]
        self._waiting.clear()
        self._waiting_rows = 0
        return jobs

    def _take(self, now: float) -> list[Job]:
        """The first waiting job and those behind it that may share its call and its time."""
        taken: list[Job] = []
        rows = 0
        tightest = math.inf
        passed: list[tuple[Job, int]] = []
        for _ in range(min(len(self._waiting), _MERGE_DEPTH)):
            job, attempt = entry = self._waiting.popleft()
            if job.attempt != attempt:
                continue
            if not taken or (self._fits(rows + job.count, tightest, job, now) and taken[0].can_merge_with(job)):
                taken.append(job)
                rows += job.count
                tightest = min(tightest, self._must_end(job, now))
            else:
                passed.append(entry)
            if rows >= self.variant.limits.max_rows_per_call or taken[0].alone:
                break
        self._waiting.extendleft(reversed(passed))
        self._waiting_rows -= rows
        return taken

    def _fits(self, rows: int, tightest: float, job: Job, now: float) -> bool:
        if rows > self.variant.limits.max_rows_per_call:
            return False
        # A larger batch must not make those late that are in it already.
        return now + self.estimator.call_ms(rows, now) / 1000 <= min(tightest, self._must_end(job, now))

    def _must_end(self, job: Job, now: float) -> float:
        """When a call with this job must end: never where it comes too late in any case.

        The late ones go in full calls, or a queue that is once too long would never get shorter.
        """
        sla_at = job.ticket.sla_at
        if sla_at is None or now + self.estimator.call_ms(job.count, now) / 1000 > sla_at:
            return math.inf
        return sla_at
