"""Request parameters of the router; all others are passed to the variant unchanged."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any, TypeVar

from trireme_backends.routing.errors import Fault, ParameterError
from trireme_backends.routing.route import AUTO, Tier

MOST_LATENCY_MS = 600_000
MOST_KEY_CHARACTERS = 256
# tritonserver passes this header as a parameter (--grpc-header-forward-pattern).
REQUEST_ID_HEADER = "x-request-id"

Value = str | int | float | bool
_Choice = TypeVar("_Choice", bound=Enum)


class OnSlaRisk(str, Enum):
    """What to do if no variant is predicted to respond in time."""

    SERVE = "serve"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class RoutingParameters:
    """The router's parameters of one request; each attribute has its parameter's name.

    Attributes:
        tier: the tier that serves the request; ``auto`` for the route's own choice; None for the route's default.
        max_latency_ms: the SLA, counted from the arrival at the router.
        min_quality, max_cost: hard limits; ``max_cost`` is per 1,000 requests.
        sticky_key: requests with the same key go to the same side of a canary.
        on_sla_risk: whether to respond late or to reject the request if no variant is fast enough.
        explain: report all numbers in ``ROUTE_REASON``.
        decide_only: name the variant without calling it.
    """

    tier: Tier | str | None = None
    max_latency_ms: float | None = None
    min_quality: float | None = None
    max_cost: float | None = None
    sticky_key: str | None = None
    on_sla_risk: OnSlaRisk = OnSlaRisk.SERVE
    explain: bool = False
    decide_only: bool = False


_NAMES = frozenset(attribute.name for attribute in fields(RoutingParameters))
_DEFAULTS = RoutingParameters()


@dataclass(frozen=True, slots=True)
class StreamReport:
    """A caller's measurements of its stream. Times in milliseconds; None if not reached."""

    variant: str
    ttft_ms: float | None = None
    ms_per_token: float | None = None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class StreamParameters:
    """Parameters of one request to a route whose callers stream from the variant.

    Attributes:
        routing: tier, hard limits, sticky key and the like.
        max_ttft_ms, max_ms_per_token: the SLA for the first token, and for each later one.
        tried: variants that failed this request before their first token, and how.
        report: set if the request reports a stream and needs no variant.
    """

    routing: RoutingParameters = field(default_factory=RoutingParameters)
    max_ttft_ms: float | None = None
    max_ms_per_token: float | None = None
    tried: Mapping[str, Fault] = field(default_factory=dict)
    report: StreamReport | None = None


_STREAM_NAMES = ("max_ttft_ms", "max_ms_per_token", "tried", "report")


def read_parameters(text: str) -> tuple[RoutingParameters, str, str]:
    """Split the parameters of a request, a JSON object from the Python backend.

    Returns:
        The router's parameters; the others as JSON ("" if there are none); the request id from a proxy's header (""
        without one). The id is not passed on, since it would prevent merging.

    Raises:
        ParameterError: a parameter of the router has a value that is not allowed.
    """
    if text in ("", "{}"):
        return _DEFAULTS, "", ""
    values: dict[str, Value] = json.loads(text)
    request_id = str(values.pop(REQUEST_ID_HEADER, ""))
    own = {name: values.pop(name) for name in _NAMES.intersection(values)}
    others = json.dumps(values, sort_keys=True) if values else ""
    return parse_parameters(own) if own else _DEFAULTS, others, request_id


def read_stream_parameters(text: str) -> tuple[StreamParameters, str]:
    """Read the parameters of a request, a JSON object from the Python backend, and a proxy's request id.

    Raises:
        ParameterError: a parameter is unknown or has a value that is not allowed.
    """
    values: dict[str, Value] = json.loads(text) if text else {}
    header_id = str(values.pop(REQUEST_ID_HEADER, ""))
    own = {name: values.pop(name) for name in _STREAM_NAMES if name in values}
    if "max_latency_ms" in values:
        raise ParameterError("max_latency_ms", values["max_latency_ms"], "max_ttft_ms and max_ms_per_token instead")
    parameters = StreamParameters(
        routing=parse_parameters(values),
        max_ttft_ms=_number(own, "max_ttft_ms", 1, MOST_LATENCY_MS),
        max_ms_per_token=_number(own, "max_ms_per_token", 0.01, MOST_LATENCY_MS),
        tried=_tried(own.get("tried", "")),
        report=_report(own["report"]) if "report" in own else None,
    )
    return parameters, header_id


def parse_parameters(values: Mapping[str, Value]) -> RoutingParameters:
    """Check the router's own parameters.

    Numbers may be text: not every server's gRPC endpoint (Open Inference Protocol) accepts fractions as parameters.

    Raises:
        ParameterError: the name is not a parameter of the router, or the value is not allowed.
    """
    for name in values:
        if name not in _NAMES:
            raise ParameterError(name, values[name], f"only the parameters {', '.join(sorted(_NAMES))}")
    tier = values.get("tier")
    return RoutingParameters(
        tier=AUTO if tier == AUTO else None if tier is None else _choice("tier", tier, Tier, more=[AUTO]),
        max_latency_ms=_number(values, "max_latency_ms", 1, MOST_LATENCY_MS),
        min_quality=_number(values, "min_quality", 0, 1),
        max_cost=_number(values, "max_cost", 0, math.inf),
        sticky_key=_key(values.get("sticky_key")),
        on_sla_risk=_choice("on_sla_risk", values.get("on_sla_risk", OnSlaRisk.SERVE.value), OnSlaRisk),
        explain=_flag(values, "explain"),
        decide_only=_flag(values, "decide_only"),
    )


def _choice(name: str, value: Value, choices: type[_Choice], *, more: Iterable[str] = ()) -> _Choice:
    try:
        return choices(value)
    except ValueError:
        raise ParameterError(name, value, ", ".join([*(choice.value for choice in choices), *more])) from None


def _number(values: Mapping[str, Value], name: str, least: float, most: float) -> float | None:
    """A number of ``values``, given as a number or text; None if it is not set."""
    if name not in values:
        return None
    value = values[name]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except ValueError:
        number = math.nan
    if not least <= number <= most or math.isinf(number):
        allowed = f"a number of at least {least:g}" if math.isinf(most) else f"a number from {least:g} to {most:g}"
        raise ParameterError(name, value, allowed)
    return number


def _key(value: Value | None) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 0 < len(value) <= MOST_KEY_CHARACTERS:
        raise ParameterError("sticky_key", value, f"a string of 1 to {MOST_KEY_CHARACTERS} characters")
    return value


def _flag(values: Mapping[str, Value], name: str) -> bool:
    value = values.get(name, False)
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise ParameterError(name, value, "true, false")


def _tried(value: Value) -> dict[str, Fault]:
    tried = {}
    for entry in str(value).split(",") if value else ():
        variant, _, fault = entry.partition(":")
        tried[variant] = _fault("tried", value, fault)
    return tried


def _report(value: Value) -> StreamReport:
    try:
        report: dict[str, Any] = json.loads(str(value))
        return StreamReport(
            variant=str(report["variant"]),
            ttft_ms=_number(report, "ttft_ms", 0, MOST_LATENCY_MS),
            ms_per_token=_number(report, "ms_per_token", 0, MOST_LATENCY_MS),
            fault=_fault("report", value, report["fault"]) if "fault" in report else None,
        )
    except (ValueError, KeyError, TypeError):
        allowed = 'a JSON object such as {"variant": "...", "ttft_ms": 80, "ms_per_token": 12, "fault": "error"}'
        raise ParameterError("report", value, allowed) from None


def _fault(name: str, value: Value, fault: str) -> Fault:
    try:
        return Fault(fault)
    except ValueError:
        raise ParameterError(name, value, f"faults {', '.join(known.value for known in Fault)}") from None
