"""What the router raises on purpose.

ModelError
└── RouteFileError      route.json or traffic.json is wrong: says file, key, what and the mend
RequestError
├── ParameterError      a request parameter is wrong: says parameter, value and what is allowed
└── LimitError          no variant keeps the caller's hard limits
BackendError
├── UnavailableError    no variant that the caller allows can answer now
└── CallError           one call of one variant failed; the router tries the next one
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from trireme_backends.errors import BackendError, ModelError, RequestError


class RouteFileError(ModelError):
    """A file of routing rules is wrong at a known key."""

    def __init__(self, path: Path, key: str, problem: str) -> None:
        super().__init__(f"{path}: {key}: {problem}" if key else f"{path}: {problem}")
        self.path, self.key, self.problem = path, key, problem


class ParameterError(RequestError):
    """A request parameter has a value that is not allowed."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(f"parameter {name} is {value!r}; allowed: {allowed}")
        self.name, self.value, self.allowed = name, value, allowed


class LimitError(RequestError):
    """No variant of the route keeps the hard limits of a request."""


class UnavailableError(BackendError):
    """No variant that the caller allows can answer now; a later request may be answered."""


class Fault(str, Enum):
    """Why a variant was left for the next one.

    ERROR and NOT_FINITE (the answer holds a value that is not a finite number) may lie in the request, which shows
    when another variant is asked; NOT_READY and UNHEALTHY lie in the variant. UNSUPPORTED: the variant is well, and
    cannot do what is asked. OVERLOADED: its queue was full. LATE: no answer in its share of the time. BREAKER_OPEN: it
    failed other requests while this one waited.
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
    def may_lie_in_request(self) -> bool:
        return self in (Fault.ERROR, Fault.NOT_FINITE)


# Triton hands every failure of a call on as INTERNAL: only the sentence tells them apart.
_SIGNS = (
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
    """What Triton's sentence about a failed call means."""
    return next((fault for sign, fault in _SIGNS if sign in message), Fault.ERROR)


class CallError(BackendError):
    """A call of a variant failed."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault
