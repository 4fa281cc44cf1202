"""The errors of load tests.

TriremeError
├── SpecError          no run follows from the arguments: a rate of zero, a weight below zero
├── TargetError        no server answers, or it does not serve the model
└── RequestFailed      one request failed; runs count it, benchmarks end with it
"""

from __future__ import annotations

from trireme.errors import TriremeError


class SpecError(TriremeError):
    """No run follows from the arguments."""


class TargetError(TriremeError):
    """No server answers, or it does not serve the model."""


class RequestFailed(TriremeError):  # noqa: N818 - counted by its kind
    """One request failed.

    Attributes:
        kind: gRPC status name (``UNAVAILABLE``) or ``HTTP 503``; what a report counts.
        timed_out: no response came within the deadline.
    """

    def __init__(self, kind: str, detail: str, *, timed_out: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.timed_out = kind, timed_out
