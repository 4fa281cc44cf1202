"""What an agent says of its replica."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


class AgentState(str, enum.Enum):
    """Where a replica stands, as ``docs/availability.md`` draws it.

    Attributes:
        STARTING: no server answers, or its golden samples are being asked for the first time.
        READY: every required model answered rightly when it was last asked. ``/readyz`` is green in this state alone.
        UNREADY: one did not, or is not loaded, or the server has just missed a call.
        HEALING: a model is being loaded anew, since its process died or hangs.
        DEAD: the server is frozen, or could not be healed; only a new one helps. ``/livez`` is red in this state alone.
        DRAINING: it was asked to go; it takes no new requests and never becomes ready again.
    """

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    HEALING = "healing"
    DEAD = "dead"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class AgentReport:
    """The body of ``/readyz`` and ``/livez``.

    Attributes:
        problems: by model, what its last answers to golden samples had wrong; empty where all is right.
        heals: models that were loaded anew since the agent started. last_heal: why the last time.
        fault: why only a new server helps; empty unless ``state`` is DEAD.
        server_pid: of the server that this is said of; None where its processes cannot be seen.
    """

    state: AgentState = AgentState.STARTING
    problems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    heals: int = 0
    last_heal: str = ""
    fault: str = ""
    server_pid: int | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, form: Mapping[str, Any]) -> AgentReport:
        problems = {model: tuple(found) for model, found in form["problems"].items()}
        return cls(**{**form, "state": AgentState(form["state"]), "problems": problems})
