"""What an agent says of its replica."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass


class AgentState(str, enum.Enum):
    """Where a replica stands, as ``docs/availability.md`` draws it.

    Attributes:
        STARTING: no server answers, or its golden samples are being asked for the first time.
        READY: a model is there for every route, or for callers that ask models directly. ``/readyz`` is 200 in this
            state alone. Models may be out, or answer wrongly: an alert's business.
        UNREADY: no model is there, or a route has no variant, or the server has just missed a call.
        DEAD: the server is frozen; only a new one helps. ``/livez`` is 503 in this state alone.
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
        problems: by model, what is wrong with it; empty where its last answers to golden samples were right.
        out: models that callers cannot ask: not loaded, failing, or being healed.
        heals: models that were loaded again since the agent started. last_heal: why the last time.
        fault: why the state is UNREADY or DEAD; empty in all others.
        error: what the last look at the server failed with, and nothing is known since; empty where it went well.
        server_pid: of the server that this is said of; None where its processes cannot be seen.
    """

    state: AgentState
    problems: Mapping[str, tuple[str, ...]]
    out: tuple[str, ...]
    heals: int = 0
    last_heal: str = ""
    fault: str = ""
    error: str = ""
    server_pid: int | None = None
