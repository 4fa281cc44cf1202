"""Request parameters of a route whose callers stream from the variant themselves: questions, reports afterwards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from trireme_backends.routing.errors import Fault, ParameterError
from trireme_backends.routing.parameters import MOST_LATENCY_MS, REQUEST_ID_HEADER, Ask, Value, parse_ask, read_number

_OWN = ("max_ttft_ms", "max_ms_per_token", "tried", "report")


@dataclass(frozen=True, slots=True)
class Report:
    """What a caller saw of its stream. Times in milliseconds; None: it did not come so far."""

    variant: str
    ttft_ms: float | None = None
    ms_per_token: float | None = None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class StreamAsk:
    """One request.

    Attributes:
        ask: tier, hard limits, sticky key and the like.
        max_ttft_ms, max_ms_per_token: the SLA: until the first token, and for each one after it.
        tried: variants that failed this request before their first token, and how.
        report: set where the request is no question.
    """

    ask: Ask = field(default_factory=Ask)
    max_ttft_ms: float | None = None
    max_ms_per_token: float | None = None
    tried: Mapping[str, Fault] = field(default_factory=dict)
    report: Report | None = None


def read_stream_ask(text: str) -> tuple[StreamAsk, str]:
    """Read the parameters of a request, a JSON object as the Python backend gives it; and a proxy's request id.

    Raises:
        ParameterError: one is unknown, or has a value that is not allowed.
    """
    values: dict[str, Value] = json.loads(text) if text else {}
    header_id = str(values.pop(REQUEST_ID_HEADER, ""))
    own = {name: values.pop(name) for name in _OWN if name in values}
    if "max_latency_ms" in values:
        raise ParameterError(
            "max_latency_ms", values["max_latency_ms"], "max_ttft_ms and max_ms_per_token in its place"
        )
    asked = StreamAsk(
        ask=parse_ask(values),
        max_ttft_ms=read_number(own, "max_ttft_ms", 1, MOST_LATENCY_MS),
        max_ms_per_token=read_number(own, "max_ms_per_token", 0.01, MOST_LATENCY_MS),
        tried=_tried(own.get("tried", "")),
    )
    return replace(asked, report=_report(own["report"])) if "report" in own else asked, header_id


def _tried(value: Value) -> dict[str, Fault]:
    tried = {}
    for entry in str(value).split(",") if value else ():
        variant, _, fault = entry.partition(":")
        tried[variant] = _fault("tried", value, fault)
    return tried


def _report(value: Value) -> Report:
    try:
        told: dict[str, Any] = json.loads(str(value))
        return Report(
            variant=str(told["variant"]),
            ttft_ms=read_number(told, "ttft_ms", 0, MOST_LATENCY_MS),
            ms_per_token=read_number(told, "ms_per_token", 0, MOST_LATENCY_MS),
            fault=_fault("report", value, told["fault"]) if "fault" in told else None,
        )
    except (ValueError, KeyError, TypeError):
        allowed = 'a JSON object such as {"variant": "...", "ttft_ms": 80, "ms_per_token": 12, "fault": "error"}'
        raise ParameterError("report", value, allowed) from None


def _fault(name: str, value: Value, fault: str) -> Fault:
    try:
        return Fault(fault)
    except ValueError:
        raise ParameterError(name, value, f"as faults {', '.join(known.value for known in Fault)}") from None
