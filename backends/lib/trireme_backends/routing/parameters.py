"""Request parameters: what a caller asks of the router; all others are handed on to the variant as they came."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum

from trireme_backends.routing.errors import ParameterError
from trireme_backends.routing.route import AUTO, Tier

MOST_LATENCY_MS = 600_000
MOST_KEY_CHARACTERS = 256
# tritonserver hands this header on as a parameter (--grpc-header-forward-pattern).
REQUEST_ID_HEADER = "x-request-id"

Value = str | int | float | bool


class OnSlaRisk(str, Enum):
    """What to do when no variant is predicted to answer in time."""

    SERVE = "serve"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Ask:
    """The router's own parameters of one request; each attribute has its parameter's name.

    Attributes:
        tier: the tier to answer from; ``auto`` for the route's own choice; None: the route's default.
        max_latency_ms: the SLA, counted from the arrival at the router.
        min_quality, max_cost: hard limits; ``max_cost`` is per 1,000 requests.
        sticky_key: requests of one key go to the same side of a canary.
        on_sla_risk: whether to answer late or to refuse, when no variant is fast enough.
        explain: tell all numbers in ``ROUTE_REASON``.
        decide_only: name the variant and do not call it.
    """

    tier: Tier | str | None = None
    max_latency_ms: float | None = None
    min_quality: float | None = None
    max_cost: float | None = None
    sticky_key: str | None = None
    on_sla_risk: OnSlaRisk = OnSlaRisk.SERVE
    explain: bool = False
    decide_only: bool = False


_NAMES = frozenset(attribute.name for attribute in fields(Ask))
_PLAIN = Ask()


def read_parameters(text: str) -> tuple[Ask, str, str]:
    """Split the parameters of a request, a JSON object as the Python backend gives it.

    Returns:
        The router's own ones; the others as JSON ("" where there are none); the id that a proxy's header gave the
        request ("" where none did). The last is not handed on: no two requests would be merged.

    Raises:
        ParameterError: an own one has a value that is not allowed.
    """
    if text in ("", "{}"):
        return _PLAIN, "", ""
    values: dict[str, Value] = json.loads(text)
    request_id = str(values.pop(REQUEST_ID_HEADER, ""))
    own = {name: values.pop(name) for name in _NAMES.intersection(values)}
    others = json.dumps(values, sort_keys=True) if values else ""
    return parse_ask(own) if own else _PLAIN, others, request_id


def parse_ask(values: Mapping[str, Value]) -> Ask:
    """Check the router's own parameters.

    Numbers may come as text: the Open Inference Protocol's gRPC form has no parameters with fractions on every server.

    Raises:
        ParameterError: the name is none of the router's, or the value is not allowed.
    """
    for name in values:
        if name not in _NAMES:
            raise ParameterError(name, values[name], f"only the parameters {', '.join(sorted(_NAMES))}")
    return Ask(
        tier=_tier(values.get("tier")),
        max_latency_ms=read_number(values, "max_latency_ms", 1, MOST_LATENCY_MS),
        min_quality=read_number(values, "min_quality", 0, 1),
        max_cost=read_number(values, "max_cost", 0, math.inf),
        sticky_key=_key(values.get("sticky_key")),
        on_sla_risk=_on_sla_risk(values.get("on_sla_risk", OnSlaRisk.SERVE.value)),
        explain=_flag(values, "explain"),
        decide_only=_flag(values, "decide_only"),
    )


def _tier(value: Value | None) -> Tier | str | None:
    if value is None or value == AUTO:
        return value if value is None else AUTO
    try:
        return Tier(value)
    except ValueError:
        raise ParameterError("tier", value, ", ".join([*(tier.value for tier in Tier), AUTO])) from None


def read_number(values: Mapping[str, Value], name: str, least: float, most: float) -> float | None:
    """A number of ``values``, maybe as text; None where it is not there."""
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
        raise ParameterError("sticky_key", value, f"a text of 1 to {MOST_KEY_CHARACTERS} characters")
    return value


def _on_sla_risk(value: Value) -> OnSlaRisk:
    try:
        return OnSlaRisk(value)
    except ValueError:
        raise ParameterError("on_sla_risk", value, ", ".join(choice.value for choice in OnSlaRisk)) from None


def _flag(values: Mapping[str, Value], name: str) -> bool:
    value = values.get(name, False)
    if value in (True, "true"):
        return True
    if value in (False, "false"):
        return False
    raise ParameterError(name, value, "true, false")
