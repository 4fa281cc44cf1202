"""What an agent says of its replica."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field


class AgentState(str, enum.Enum):
    """Where a replica stands, as ``docs/availability.md`` draws it.

    Attributes:
        STARTING: the server is not up yet, or its golden samples are being asked for the first time.
        READY: every required model has answered rightly when it was last asked.
        UNREADY: one has not, or the server has just missed a call.
        DEAD: the server is gone or frozen; only a new one helps. ``/livez`` is red.
        DRAINING: it was asked to go; it takes no new requests and never becomes ready again.
    """

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DEAD = "dead"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class AgentReport:
    """The body of ``/readyz`` and ``/livez``.

    Attributes:
        problems: by model, what its last answers to golden samples had wrong; empty lists where all is right.
        heals: models that were loaded anew since the agent started. last_heal: why the last time.
        fault: why only a new server helps; empty unless ``state`` is DEAD.
    """

    state: AgentState = AgentState.STARTING
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    heals: int = 0
    last_heal: str = ""
    fault: str = ""
