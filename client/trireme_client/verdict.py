"""What a failed attempt means: whether the server executed the request, and whether to try again.

Triton tells its failures apart by sentence more than by status: an unloaded model, a full queue, a request that waited
too long and a server that stops are all UNAVAILABLE. The sentences are those of tritonserver 2.51.
"""

from __future__ import annotations

import enum

from trireme_client.wire import WireError


class Verdict(enum.Enum):
    """Why an attempt failed."""

    DEADLINE = enum.auto()  # its own deadline passed
    LOST = enum.auto()  # the connection broke: executed or not, nobody knows
    NOT_AGAIN = enum.auto()  # Envoy, or a route on the server, lost it with two processes
    STOPPING = enum.auto()  # the server ends: not executed
    SICK = enum.auto()  # the model's process on this replica is dead: not executed
    NOT_FOUND = enum.auto()
    QUEUE_TIMEOUT = enum.auto()
    QUEUE_FULL = enum.auto()
    REGION_UNKNOWN = enum.auto()  # the server does not know the shared memory: it was restarted
    INVALID = enum.auto()
    UNSUPPORTED = enum.auto()  # by this model: another one may do it
    FAULT = enum.auto()


_SENTENCES = (
    ("not sent again: ", Verdict.NOT_AGAIN),
    ("unable to find shared memory region", Verdict.REGION_UNKNOWN),
    ("request timeout expired", Verdict.QUEUE_TIMEOUT),
    ("exceeds maximum queue size", Verdict.QUEUE_FULL),
    ("server is stopping", Verdict.STOPPING),
    ("unknown model", Verdict.NOT_FOUND),
    ("no available versions", Verdict.NOT_FOUND),
    ("is not ready", Verdict.NOT_FOUND),
    ("is not healthy", Verdict.SICK),
    # Language models, see `trireme_backends/generation/errors.py`.
    ("invalid_request", Verdict.INVALID),
    ("context_length_exceeded", Verdict.UNSUPPORTED),
    ("unsupported (", Verdict.UNSUPPORTED),
    ("overloaded: ", Verdict.QUEUE_FULL),
    ("stub process is unhealthy", Verdict.SICK),
)

_STATUSES = {
    "DEADLINE_EXCEEDED": Verdict.DEADLINE,
    "CANCELLED": Verdict.LOST,
    "UNAVAILABLE": Verdict.LOST,
    "NOT_FOUND": Verdict.NOT_FOUND,
    "INVALID_ARGUMENT": Verdict.INVALID,
}


def judge(error: WireError) -> Verdict:
    """Tell what a failure was."""
    message = error.message.lower()
    for sentence, verdict in _SENTENCES:
        if sentence in message:
            return verdict
    return _STATUSES.get(error.status, Verdict.FAULT)
