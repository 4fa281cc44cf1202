"""Why an attempt failed: whether the server executed the request, and whether to try again.

Triton distinguishes failures by message more than by status: an unloaded model, a full queue, a request that waited
too long and a stopping server are all UNAVAILABLE. The messages are those of tritonserver 2.51.
"""

from __future__ import annotations

import enum

from trireme_client.transport import StatusError


class FailureKind(enum.Enum):
    """Why an attempt failed."""

    DEADLINE = enum.auto()  # its own deadline passed
    CONNECTION_LOST = enum.auto()  # unknown whether it was executed
    NOT_RETRYABLE = enum.auto()  # Envoy, or a route on the server, lost it with two processes
    SERVER_STOPPING = enum.auto()  # not executed
    MODEL_DEAD = enum.auto()  # the model's process on this replica is dead: not executed
    NOT_FOUND = enum.auto()
    QUEUE_TIMEOUT = enum.auto()
    QUEUE_FULL = enum.auto()
    REGION_UNKNOWN = enum.auto()  # the server does not know the shared memory: it was restarted
    INVALID = enum.auto()
    UNSUPPORTED = enum.auto()  # not supported by this model; another one may support it
    FAULT = enum.auto()

    @classmethod
    def of(cls, error: StatusError) -> FailureKind:
        message = error.message.lower()
        for part, kind in _MESSAGES:
            if part in message:
                return kind
        return _STATUSES.get(error.status, FailureKind.FAULT)


_MESSAGES = (
    ("not sent again: ", FailureKind.NOT_RETRYABLE),
    ("unable to find shared memory region", FailureKind.REGION_UNKNOWN),
    ("request timeout expired", FailureKind.QUEUE_TIMEOUT),
    ("exceeds maximum queue size", FailureKind.QUEUE_FULL),
    ("server is stopping", FailureKind.SERVER_STOPPING),
    ("unknown model", FailureKind.NOT_FOUND),
    ("no available versions", FailureKind.NOT_FOUND),
    ("is not ready", FailureKind.NOT_FOUND),
    ("is not healthy", FailureKind.MODEL_DEAD),
    # Language models, see `trireme_backends/generation/errors.py`.
    ("invalid_request", FailureKind.INVALID),
    ("context_length_exceeded", FailureKind.UNSUPPORTED),
    ("unsupported (", FailureKind.UNSUPPORTED),
    ("overloaded: ", FailureKind.QUEUE_FULL),
    ("stub process is unhealthy", FailureKind.MODEL_DEAD),
)

_STATUSES = {
    "DEADLINE_EXCEEDED": FailureKind.DEADLINE,
    "CANCELLED": FailureKind.CONNECTION_LOST,
    "UNAVAILABLE": FailureKind.CONNECTION_LOST,
    "NOT_FOUND": FailureKind.NOT_FOUND,
    "INVALID_ARGUMENT": FailureKind.INVALID,
}
