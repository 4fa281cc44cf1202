"""What a load test refuses.

TriremeError
├── SpecError          what was asked for makes no run: a rate of zero, a weight below zero
├── TargetError        the server is not there, or does not have the model
└── RequestFailed      one request was not answered well; runs count it, benchmarks end with it
"""

from __future__ import annotations

from trireme.errors import TriremeError


class SpecError(TriremeError):
    """What was asked for makes no run."""


class TargetError(TriremeError):
    """The server is not there, or does not have the model."""


class RequestFailed(TriremeError):  # noqa: N818 - an answer of the server, counted by its kind
    """One request was not answered well.

    Attributes:
        kind: gRPC status name (``UNAVAILABLE``) or ``HTTP 503``; what a report counts.
        timed_out: no answer came within the deadline.
    """

    def __init__(self, kind: str, detail: str, *, timed_out: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.timed_out = kind, timed_out
