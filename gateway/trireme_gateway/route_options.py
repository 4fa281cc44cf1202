"""Options of the route in a request's ``x-trireme-*`` headers."""

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


# Header without its prefix -> parser of its value, and what it must be. The route checks names and ranges.
_OPTIONS: Mapping[str, tuple[Read, str]] = {
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
class RouteOptions:
    """The options in a request's headers.

    Attributes:
        parameters: request parameters for the route.
        timeout_ms: for the whole request; at most the gateway's own limit.
    """

    parameters: Mapping[str, Parameter]
    timeout_ms: float

    @classmethod
    def read(cls, headers: Headers, sticky_key: str | None, most_seconds: float) -> RouteOptions:
        """Read the headers; a sticky key in a header takes precedence over ``sticky_key`` from the body.

        Raises:
            ApiError: 400, an unknown header or an invalid value.
        """
        parameters: dict[str, Parameter] = {} if sticky_key is None else {"sticky_key": sticky_key}
        timeout_ms = most_seconds * 1000
        for name, text in headers.items():
            option = name.removeprefix(_PREFIX)
            if option == name:
                continue
            if option == _TIMEOUT:
                timeout_ms = min(timeout_ms, _read(name, text, _positive, "a number of at least 1"))
            elif option in _OPTIONS:
                read, allowed = _OPTIONS[option]
                parameters[option.replace("-", "_")] = _read(name, text, read, allowed)
            else:
                known = ", ".join(_PREFIX + one for one in (*_OPTIONS, _TIMEOUT))
                raise invalid(name, f"unknown header; known headers: {known}", code="unknown_parameter")
        return cls(parameters, timeout_ms)


def _read(name: str, text: str, read: Callable[[str], P], allowed: str) -> P:
    try:
        return read(text)
    except (ValueError, KeyError):
        raise invalid(name, f"is {text!r:.80}; it must be {allowed}") from None
