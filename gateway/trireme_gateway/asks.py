"""What a caller asks of the route, by ``x-trireme-*`` headers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from starlette.datastructures import Headers

from trireme_gateway.errors import invalid

_PREFIX = "x-trireme-"
Parameter = str | int | float | bool
P = TypeVar("P", bound=Parameter)
Read = Callable[[str], Parameter]


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number) or number < 0:
        raise ValueError
    return number


def _positive(text: str) -> float:
    number = _number(text)
    if number < 1:
        raise ValueError
    return number


def _flag(text: str) -> bool:
    return {"true": True, "false": False}[text.lower()]


# Header without its prefix -> how its value is read, and what it must be. Names and ranges are for the route to check.
_ASKS: Mapping[str, tuple[Read, str]] = {
    "tier": (str, "a tier"),
    "max-latency-ms": (_number, "a number"),
    "max-ttft-ms": (_number, "a number"),
    "max-ms-per-token": (_number, "a number"),
    "min-quality": (_number, "a number"),
    "max-cost": (_number, "a number"),
    "sticky-key": (str, "a text"),
    "on-sla-risk": (str, "serve or refuse"),
    "explain": (_flag, "true or false"),
}
_TIMEOUT = "timeout-ms"


@dataclass(frozen=True, slots=True)
class RouteAsk:
    """What a request's headers ask for.

    Attributes:
        parameters: the route's request parameters.
        timeout_ms: of all of the request: what the caller says, at most what the gateway allows.
    """

    parameters: Mapping[str, Parameter]
    timeout_ms: float

    @classmethod
    def read(cls, headers: Headers, sticky_key: str | None, most_seconds: float) -> RouteAsk:
        """Read the headers; ``sticky_key`` is what the body says, a header goes before it.

        Raises:
            ApiError: 400, there is no such header, or its value is wrong.
        """
        parameters: dict[str, Parameter] = {} if sticky_key is None else {"sticky_key": sticky_key}
        timeout_ms = most_seconds * 1000
        for name, text in headers.items():
            ask = name.removeprefix(_PREFIX)
            if ask == name:
                continue
            if ask == _TIMEOUT:
                timeout_ms = min(timeout_ms, _read(name, text, _positive, "a number of at least 1"))
            elif ask in _ASKS:
                read, allowed = _ASKS[ask]
                parameters[ask.replace("-", "_")] = _read(name, text, read, allowed)
            else:
                known = ", ".join(_PREFIX + one for one in (*_ASKS, _TIMEOUT))
                raise invalid(name, f"there is no such header; there is: {known}", code="unknown_parameter")
        return cls(parameters, timeout_ms)


def _read(name: str, text: str, read: Callable[[str], P], allowed: str) -> P:
    try:
        return read(text)
    except (ValueError, KeyError):
        raise invalid(name, f"is {text!r:.80}; it must be {allowed}") from None
