"""One call of a client: its deadline and its state."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from trireme_client.errors import CallFacts, DeadlineError
from trireme_client.request import SequenceStep
from trireme_client.transport import Metadata


@dataclass(slots=True)
class Call:
    """The state of one call, including all requests that it is split into.

    Attributes:
        deadline_ms: from ``started_at`` to the return.
        metadata: sent with every request of the call.
        sequence: of a stateful model; such a request is never sent twice, nor to another replica.
        affinity_key: calls with the same key go to the same replica unless it is overloaded.
        hedgeable: whether a slow request may be sent a second time.
        sent: whether a server has or may have executed part of it.
        in_flight: attempts without a response yet; several if the requests of a split call run concurrently.
    """

    deadline_ms: float
    model: str = ""
    version: str = ""
    request_id: str = ""
    metadata: Metadata = ()
    sequence: SequenceStep | None = None
    affinity_key: str = ""
    hedgeable: bool = False
    started_at: float = field(default_factory=time.monotonic)
    attempts: int = 0
    endpoint: str = ""
    proxy: str = ""
    sent: bool = False
    in_flight: int = 0

    def elapsed_ms(self) -> float:
        return (time.monotonic() - self.started_at) * 1000

    def remaining_s(self) -> float:
        return self.started_at + self.deadline_ms / 1000 - time.monotonic()

    def facts(self) -> CallFacts:
        return CallFacts(self.model, self.version, self.request_id, self.attempts, self.endpoint, self.elapsed_ms(),
                         self.proxy)  # fmt: skip

    def deadline_error(self) -> DeadlineError:
        return DeadlineError(self.deadline_ms, sent=self.sent or self.in_flight > 0, facts=self.facts())
