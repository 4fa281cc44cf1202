"""All errors of a call.

ClientError
├── DeadlineError            the caller's deadline passed; ``sent``: whether a server may have seen it
│   └── QueueTimeoutError    the server dropped the request from its queue: it was not executed
├── UnavailableError         no replica could be reached, or the connection broke
│   ├── UnreachableError     nothing listens at the address, or the connection broke
│   ├── OverloadedError      the server's queue is full: it was not executed
│   └── LateError            a stream's first response did not arrive within ``first_within_ms``
├── InvalidRequestError      the request is invalid: rejected by the client before sending, or by the server
│   ├── InvalidInputError    a tensor is invalid; names it and the reason
│   └── UnsupportedError     valid, but not supported by this language model or engine; another one may support it
├── ModelNotFoundError       the model or version does not exist; names the models that do
├── ServerFaultError         the server or the model failed on an accepted request
│   └── ModelDiedError       the process of the model is dead or frozen: it was not executed
└── ClosedError              the client was closed, or belongs to another process
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CallFacts:
    """The facts of a call at its end.

    Attributes:
        model, version: as requested; an empty version is the server's choice.
        request_id: the id in the server's log.
        attempts: requests sent, including hedges; 0 if nothing was sent.
        endpoint: the replica of the last attempt.
        elapsed_ms: since the start of the call.
        proxy: the environment variable that names the proxy to the replica; empty without one.
    """

    model: str = ""
    version: str = ""
    request_id: str = ""
    attempts: int = 0
    endpoint: str = ""
    elapsed_ms: float = 0.0
    proxy: str = ""

    def __str__(self) -> str:
        fields = {
            "model": f"{self.model}:{self.version}" if self.version else self.model,
            "endpoint": self.endpoint,
            "proxy": f"from {self.proxy}, unless no_proxy lists the host" if self.proxy else "",
            "request": self.request_id,
            "attempts": self.attempts,
            "after": f"{self.elapsed_ms:.0f} ms",
        }
        return ", ".join(f"{key} {value}" for key, value in fields.items() if value != "")


class ClientError(Exception):
    """A message and the facts of the call."""

    def __init__(self, problem: str, facts: CallFacts | None = None) -> None:
        self.problem = problem
        self.facts = facts or CallFacts()
        super().__init__(f"{problem} [{self.facts}]" if facts else problem)

    def add_facts(self, facts: CallFacts) -> None:
        """Add the facts of the call to an error raised without them."""
        self.facts = facts
        self.args = (f"{self.problem} [{facts}]",)

    @property
    def model(self) -> str:
        return self.facts.model

    @property
    def version(self) -> str:
        return self.facts.version

    @property
    def request_id(self) -> str:
        return self.facts.request_id

    @property
    def attempts(self) -> int:
        return self.facts.attempts


class DeadlineError(ClientError):
    """The deadline passed. ``sent`` False: no server saw the request, so sending it again is safe."""

    def __init__(self, deadline_ms: float, *, sent: bool, facts: CallFacts | None = None) -> None:
        where = "after sending: the server may have executed it" if sent else "before sending: no server saw it"
        super().__init__(f"the deadline of {deadline_ms:g} ms passed {where}", facts)
        self.deadline_ms, self.sent = deadline_ms, sent


class QueueTimeoutError(DeadlineError):
    """The request waited in the server's queue for too long and was not executed."""

    def __init__(self, deadline_ms: float, facts: CallFacts | None = None) -> None:
        ClientError.__init__(self, "the request timed out in the server's queue and was not executed", facts)
        self.deadline_ms, self.sent = deadline_ms, True


class UnavailableError(ClientError):
    """No replica could be reached, or the connection broke while the request was in flight."""


class UnreachableError(UnavailableError):
    """Nothing listens at the address, or the connection broke: the server is down, or went down during the call."""


class OverloadedError(UnavailableError):
    """The server rejected the request because its queue is full; it was not executed."""


class LateError(UnavailableError):
    """A stream's first response did not arrive within ``first_within_ms``; the request was cancelled."""


class InvalidRequestError(ClientError, ValueError):
    """The request is invalid, whatever the server's state; it is never sent again."""


class InvalidInputError(InvalidRequestError):
    """A tensor of the request is invalid."""

    def __init__(self, tensor: str, reason: str, facts: CallFacts | None = None) -> None:
        super().__init__(f"tensor {tensor!r}: {reason}", facts)
        self.tensor, self.reason = tensor, reason


class UnsupportedError(InvalidRequestError):
    """The model's engine lacks a feature that the request needs, or its context is too short for it."""


class ModelNotFoundError(ClientError):
    """The model or version does not exist or is not ready; ``known`` lists the models that are ready."""

    def __init__(self, model: str, version: str, known: Iterable[str], facts: CallFacts | None = None) -> None:
        self.known = tuple(sorted(known))
        named = f"model {model!r}" + (f" version {version}" if version else "")
        super().__init__(f"{named} is not ready; ready models: {', '.join(self.known) or 'none'}", facts)


class ServerFaultError(ClientError):
    """The server accepted the request and failed; ``status`` is the gRPC status name."""

    def __init__(self, status: str, message: str, facts: CallFacts | None = None) -> None:
        super().__init__(f"the server failed: {status}: {message}", facts)
        self.status, self.message = status, message


class ModelDiedError(ServerFaultError):
    """The model's process on the replica is dead or frozen; a later request may succeed."""


class ClosedError(ClientError):
    """The client was closed, or was created in another process, and cannot be used."""
