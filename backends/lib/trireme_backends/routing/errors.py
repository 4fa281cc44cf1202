"""Errors that the router raises deliberately, in addition to ``FileError`` for ``route.json`` and ``traffic.json``.

RequestError
├── ParameterError      a request parameter is invalid: names the parameter, its value and the allowed values
└── LimitError          no variant meets the caller's hard limits
BackendError
├── UnavailableError    no variant that the caller allows is available
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
    """No variant of the route meets the hard limits of a request."""


class UnavailableError(BackendError):
    """No variant that the caller allows is available; a later request may succeed."""

    code = "UNAVAILABLE"


class Fault(str, Enum):
    """Why an attempt on a variant failed.

    The request may be the cause of ERROR and NOT_FINITE (the output has a value that is not a finite number): another
    variant's result shows it. The variant is the cause of NOT_READY and UNHEALTHY. UNSUPPORTED: the variant is healthy
    but lacks a feature that the request needs. OVERLOADED: its queue was full. LATE: no response within its share of
    the time. BREAKER_OPEN: it failed other requests while this one waited.
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


# Triton reports every failed call as INTERNAL; only the message distinguishes the causes.
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
