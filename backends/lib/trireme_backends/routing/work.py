"""A request on its way through the router, and what is told about it afterwards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import BackendError
from trireme_backends.routing.decision import Decision, Reason
from trireme_backends.routing.errors import Fault
from trireme_backends.routing.parameters import Ask
from trireme_backends.routing.route import Tier

Tensors = Mapping[str, npt.NDArray[Any]]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RowRoute:
    """What the outputs ``VARIANT``, ``VARIANT_VERSION`` and ``ROUTE_REASON`` say of one row."""

    variant: str
    version: str
    reason: Reason
    reason_json: str


@dataclass(frozen=True, slots=True)
class Answer:
    """Outputs of the task, [rows, ...] each, and how each row came to its answer."""

    outputs: Tensors
    routes: list[RowRoute]


@dataclass(slots=True, eq=False)
class Ticket:
    """One request from its arrival to its reply.

    Attributes:
        ask: what it asks of the router. parameters: the others, as JSON, for the variant.
        inputs: [rows, ...] each.
        arrived, deadline: moments of the monotonic clock; after the deadline it gets an error.
        reply: is called once, from any thread, with the answer or the error.
        request_id: handed on where the request is called alone.
    """

    ask: Ask
    parameters: str
    inputs: Tensors
    rows: int
    arrived: float
    deadline: float
    reply: Callable[[Answer | BackendError], None]
    request_id: str = ""
    outputs: dict[str, npt.NDArray[Any]] | None = None
    routes: list[RowRoute] = field(default_factory=list)

    @property
    def sla_at(self) -> float | None:
        """The moment at which ``max_latency_ms`` is over."""
        return None if self.ask.max_latency_ms is None else self.arrived + self.ask.max_latency_ms / 1000


@dataclass(frozen=True, slots=True)
class Tried:
    """A variant (or canary) that did not answer a request."""

    variant: str
    fault: Fault
    after_ms: float


@dataclass(frozen=True, slots=True)
class FirstAnswer:
    """What an unsure first tier said, kept in case that the second one cannot be asked.

    Attributes:
        confidence: of the rows that go up, calibrated.
    """

    job: Job
    variant: str
    version: str
    seen_ms: float
    confidence: npt.NDArray[np.float64]


@dataclass(slots=True, eq=False)
class Job:
    """Rows of a request that look for a variant: all of them, or those whose first answer was unsure.

    Attributes:
        rows: their indexes; None for all.
        first_answer: set where the rows were answered by the first tier of a cascade.
        tier: the ceiling it is under.
        attempt: number of the present try; whoever holds an older number is too late.
        alone: it must not be merged: it was in a merged call that failed.
        probe: a copy of a request that a resting variant gets; nobody waits for its answer.
        point_ms: expected time of the present try, see ``latency``.
        first_error: what the variant said that was tried first.
    """

    ticket: Ticket
    tier: Tier | None
    rows: Rows | None = None
    first_answer: FirstAnswer | None = None
    probe: bool = False
    alone: bool = False
    attempt: int = 0
    placed: float = 0.0
    point_ms: float = 0.0
    decision: Decision | None = None
    tried: list[Tried] = field(default_factory=list)
    first_error: str = ""

    @property
    def count(self) -> int:
        return self.ticket.rows if self.rows is None else len(self.rows)

    @property
    def inputs(self) -> Tensors:
        if self.rows is None:
            return self.ticket.inputs
        return {name: array[self.rows] for name, array in self.ticket.inputs.items()}

    def can_merge_with(self, other: Job) -> bool:
        """Whether both may be rows of one call: same parameters, same inputs, same row shapes."""
        if self.alone or other.alone or self.ticket.parameters != other.ticket.parameters:
            return False
        mine, theirs = self.ticket.inputs, other.ticket.inputs
        return mine.keys() == theirs.keys() and all(mine[n].shape[1:] == theirs[n].shape[1:] for n in mine)


def describe(job: Job, variant: str, version: str, reason: Reason, **more: float) -> RowRoute:
    """What is told of a row; ``docs/routing.md`` tells the keys of the JSON."""
    decision = job.decision
    assert decision is not None
    told: dict[str, Any] = {
        "reason": reason.value,
        "tier": decision.variant.tier.value,
        "predicted_p95_ms": round(decision.predicted_p95_ms, 2),
        **{name: round(value, 4) for name, value in more.items()},
    }
    if decision.reason is Reason.SLA_AT_RISK:
        told["sla_at_risk"] = True
    if variant != decision.variant.name:
        told["canary"] = True
    if job.tried:
        told["tried"] = [
            {"variant": tried.variant, "fault": tried.fault.value, "after_ms": round(tried.after_ms, 2)}
            for tried in job.tried
        ]
    if job.ticket.ask.explain:
        told["time_left_ms"] = round(decision.time_left_ms, 2)
        told["considered"] = considered_json(decision)
    return RowRoute(variant, version, reason, json.dumps(told))


def considered_json(decision: Decision) -> list[dict[str, Any]]:
    """Every variant with the numbers it was judged by."""
    return [
        {
            "variant": considered.variant.name,
            "tier": considered.variant.tier.value,
            "verdict": considered.verdict.value,
            "quality": round(considered.state.quality, 4),
            "cost_per_1000": considered.variant.cost_per_1000,
            "predicted_p95_ms": round(considered.state.predicted_p95_ms, 2),
        }
        for considered in decision.considered
    ]
