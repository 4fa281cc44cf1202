"""Errors of load tests.

TriremeError
├── SpecError          the arguments define no valid run: a rate of zero, a weight below zero
├── TargetError        no server responds, or it does not serve the model
└── RequestFailed      one request failed; runs count it, benchmarks abort
"""

from __future__ import annotations

from trireme.errors import TriremeError


class SpecError(TriremeError):
    """The arguments define no valid run."""


class TargetError(TriremeError):
    """No server responds, or it does not serve the model."""


class RequestFailed(TriremeError):  # noqa: N818 - counted by its kind
    """One request failed.

    Attributes:
        kind: gRPC status name (``UNAVAILABLE``) or ``HTTP 503``; reports count failures by it.
        timed_out: no response arrived within the deadline.
    """

    def __init__(self, kind: str, detail: str, *, timed_out: bool = False) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.timed_out = kind, timed_out
