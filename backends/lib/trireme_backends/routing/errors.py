"""What the router raises on purpose, beside ``FileError`` for ``route.json`` and ``traffic.json``.

RequestError
├── ParameterError      a request parameter is wrong: names parameter, value and what is allowed
└── LimitError          no variant keeps the caller's hard limits
BackendError
├── UnavailableError    no variant that the caller allows can answer now
└── CallError           one call of one variant failed; the router tries the next one
"""

from __future__ import annotations

from enum import Enum

from trireme_backends.errors import BackendError, RequestError


class ParameterError(RequestError):
    """A request parameter has a value that is not allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"parameter {name} is {value!r}; allowed: {allowed}")
        self.name, self.value, self.allowed = name, value, allowed


class LimitError(RequestError):
    """No variant of the route keeps the hard limits of a request."""


class UnavailableError(BackendError):
    """No variant that the caller allows can answer now; a later request may be answered."""

    code = "UNAVAILABLE"


class Fault(str, Enum):
    """Why an attempt on a variant failed.

    The cause of ERROR and NOT_FINITE (the answer has a value that is not a finite number) may be the request: another
    variant's answer shows it. The cause of NOT_READY and UNHEALTHY is the variant. UNSUPPORTED: the variant is healthy
    but lacks a feature that the request needs. OVERLOADED: its queue was full. LATE: no answer in its share of the
    time. BREAKER_OPEN: it failed other requests while this one waited.
    """

    ERROR = "error"
    NOT_FINITE = "not_finite"
    NOT_READY = "not_ready"
    UNHEALTHY = "unhealthy"
    UNSUPPORTED = "unsupported"
    OVERLOADED = "overloaded"
    LATE = "late"
    BREAKER_OPEN = "breaker_open"

    @property
    def may_be_request(self) -> bool:
        return self in (Fault.ERROR, Fault.NOT_FINITE)


# Triton reports every failed call as INTERNAL: only the message distinguishes them.
_MESSAGES = (
    ("is not ready", Fault.NOT_READY),
    ("no available versions", Fault.NOT_READY),
    ("unknown model", Fault.NOT_READY),
    ("is not found", Fault.NOT_READY),
    ("Server is stopping", Fault.NOT_READY),
    ("is not healthy", Fault.UNHEALTHY),
    ("Exceeds maximum queue size", Fault.OVERLOADED),
    ("Request timeout expired", Fault.OVERLOADED),
    ("not a finite number", Fault.NOT_FINITE),
)


def fault_of(message: str) -> Fault:
    """Classify Triton's message about a failed call."""
    return next((fault for part, fault in _MESSAGES if part in message), Fault.ERROR)


class CallError(BackendError):
    """A call of a variant failed."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
