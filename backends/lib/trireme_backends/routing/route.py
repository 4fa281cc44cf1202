"""``route.json``: which variants do a task, at which tier and cost, and within which limits.

    {
      "task": "text_classification",
      "default_tier": "standard",
      "deadline_ms": 30000,
      "variants": [
        {"name": "sentiment_economy", "tier": "economy", "cost_per_1000": 0.25, "expected_latency_ms": 4},
        {"name": "sentiment_standard", "tier": "standard", "cost_per_1000": 0.5, "expected_latency_ms": 7},
        {"name": "sentiment_premium", "tier": "premium", "cost_per_1000": 1.0, "expected_latency_ms": 10,
         "limits": {"timeout_ms": 2000}}
      ],
      "cascade": {"first_tier": "economy", "second_tier": "premium", "confidence_output": "PROBABILITIES",
                  "temperature": 1.3, "threshold": 0.9}
    }

``docs/routing.md`` tells every key. The classes below mirror the file; each key has the name of its attribute.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum
from pathlib import Path
from typing import Any

from trireme_backends.routing.errors import RouteFileError

CANARY_SUFFIX = "__canary"
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class Tier(str, Enum):
    """What a caller is ready to pay for, cheapest first."""

    ECONOMY = "economy"
    STANDARD = "standard"
    PREMIUM = "premium"

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS = {tier: rank for rank, tier in enumerate(Tier)}
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Limits:
    """What the router asks of one variant at a time.

    Attributes:
        timeout_ms: a call that takes longer is left, and counts against the variant.
        max_rows_per_call: rows merged into one call.
        max_calls_in_flight: calls at a time; what comes meanwhile waits, and is merged.
        max_waiting_rows: rows that may wait; the variant takes no more when they do.
        max_streams: of a route that streams: more than these at a time go to another variant.
        max_abandoned_calls: calls that were left and still run (Triton cannot cancel them); with so many the variant
            gets no further call until one ends.
    """

    timeout_ms: float = 2000.0
    max_rows_per_call: int = 16
    max_calls_in_flight: int = 2
    max_waiting_rows: int = 4096
    max_abandoned_calls: int = 4
    max_streams: int = 64


@dataclass(frozen=True, slots=True)
class Variant:
    """One model that does the task.

    Attributes:
        cost_per_1000: price of 1,000 requests, in a unit of the user's choice; ``max_cost`` is compared with it.
        expected_latency_ms: of one request on an idle machine; holds until latencies were seen. Of a route that
            streams: until the first token of a short prompt.
        expected_ms_per_token: of a route that streams, for each token after the first one.
        prefill_ms_per_1000_characters: what a long prompt adds to the first token.
        quality: 0 to 1; unset, it is the accuracy in the manifest of the pinned version.
        output_space: answers of different spaces must not stand in for each other (the vectors of two encoders).
    """

    name: str
    tier: Tier
    cost_per_1000: float
    expected_latency_ms: float
    quality: float | None = None
    output_space: str | None = None
    expected_ms_per_token: float = 1.0
    prefill_ms_per_1000_characters: float = 0.0
    limits: Limits = field(default_factory=Limits)

    @property
    def canary(self) -> str:
        return self.name + CANARY_SUFFIX


@dataclass(frozen=True, slots=True)
class Cascade:
    """How ``tier=auto`` answers: the first tier does, and the second only where the first is unsure.

    Attributes:
        confidence_output: the variants' output with class probabilities, FP32 [classes].
        temperature: calibrates them (``trireme route calibrate``).
        threshold: the least calibrated confidence with which the first tier's answer is kept.
    """

    first_tier: Tier
    second_tier: Tier
    confidence_output: str
    temperature: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Route:
    """The rules of one task.

    Attributes:
        default_tier: for requests that name none; ``None`` stands for ``auto``.
        deadline_ms: after that a request gets an error, whatever it asked for.
        streams: the router only decides, callers stream from the variant themselves. Not every tier needs a variant.
    """

    task: str
    default_tier: Tier | None
    variants: tuple[Variant, ...]
    deadline_ms: float = 30_000.0
    cascade: Cascade | None = None
    streams: bool = False

    def variant(self, name: str) -> Variant:
        """The variant called ``name``; ``KeyError`` where there is none."""
        for variant in self.variants:
            if variant.name == name:
                return variant
        raise KeyError(name)


def load_route(path: Path) -> Route:
    """Read and check ``route.json``.

    Raises:
        RouteFileError: the file is missing, is not JSON, has an unknown or missing key, a value of the wrong kind or
            out of range, two variants of one name, or no variant for a tier.
    """
    return _Reader(path).route()


def check_variants(route: Route, path: Path, repository_dir: Path) -> None:
    """Check that every variant of a route is a model of the repository, loaded or not.

    Raises:
        RouteFileError: one is not.
    """
    for index, variant in enumerate(route.variants):
        if not (repository_dir / variant.name / "config.pbtxt").is_file():
            raise RouteFileError(
                path, f"variants[{index}].name", f"there is no model {variant.name!r} in {repository_dir}"
            )


class _Reader:
    """Reads objects into dataclasses by their attributes, so that file and class cannot drift apart."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def route(self) -> Route:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
        except OSError as error:
            raise RouteFileError(self._path, "", f"cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise RouteFileError(self._path, "", f"not JSON: {error}") from None
        values = self._keys(document, Route, "")
        entries = values["variants"]
        if not isinstance(entries, list) or not entries:
            raise RouteFileError(self._path, "variants", "must be a list with a variant for each tier")
        values["variants"] = tuple(self._variant(entry, f"variants[{index}]") for index, entry in enumerate(entries))
        streams = values.get("streams", False)
        if not isinstance(streams, bool):
            raise RouteFileError(self._path, "streams", f"is {streams!r}; it must be true or false")
        if streams and values.get("cascade") is not None:
            raise RouteFileError(self._path, "cascade", "is not for a route that streams: the router sees no answer")
        self._check_variants(values["variants"], () if streams else Tier)
        values["task"] = self._text(values["task"], "task")
        default = values["default_tier"]
        values["default_tier"] = None if default == AUTO else self._tier(default, "default_tier", f", {AUTO}")
        self._number(values, "deadline_ms", "", least=1)
        if values.get("cascade") is not None:
            values["cascade"] = self._cascade(values["cascade"])
        return Route(**values)

    def _check_variants(self, variants: tuple[Variant, ...], tiers: Iterable[Tier]) -> None:
        names = [variant.name for variant in variants]
        for index, name in enumerate(names):
            if name in names[:index]:
                raise RouteFileError(self._path, f"variants[{index}].name", f"{name!r} is there twice")
        for tier in tiers:
            if not any(variant.tier is tier for variant in variants):
                raise RouteFileError(self._path, "variants", f"none has the tier {tier.value!r}; add one")

    def _variant(self, entry: object, key: str) -> Variant:
        values = self._keys(entry, Variant, key)
        values["name"] = self._model_name(values["name"], f"{key}.name")
        values["tier"] = self._tier(values["tier"], f"{key}.tier")
        self._number(values, "cost_per_1000", key, least=0)
        self._number(values, "expected_latency_ms", key, least=0.001)
        self._number(values, "expected_ms_per_token", key, least=0.001)
        self._number(values, "prefill_ms_per_1000_characters", key, least=0)
        if values.get("quality") is not None:
            self._number(values, "quality", key, least=0, most=1)
        if values.get("output_space") is not None:
            values["output_space"] = self._text(values["output_space"], f"{key}.output_space")
        if "limits" in values:
            values["limits"] = self._limits(values["limits"], f"{key}.limits")
        return Variant(**values)

    def _limits(self, entry: object, key: str) -> Limits:
        values = self._keys(entry, Limits, key)
        self._number(values, "timeout_ms", key, least=1)
        for name in values:
            if name != "timeout_ms":
                value = values[name]
                if type(value) is not int or value < 1:
                    raise RouteFileError(self._path, f"{key}.{name}", f"is {value!r}; it must be a whole number from 1")
        return Limits(**values)

    def _cascade(self, entry: object) -> Cascade:
        values = self._keys(entry, Cascade, "cascade")
        for name in ("first_tier", "second_tier"):
            values[name] = self._tier(values[name], f"cascade.{name}")
        if values["first_tier"].rank >= values["second_tier"].rank:
            raise RouteFileError(self._path, "cascade.second_tier", "must be above first_tier")
        values["confidence_output"] = self._text(values["confidence_output"], "cascade.confidence_output")
        self._number(values, "temperature", "cascade", least=0.01)
        self._number(values, "threshold", "cascade", least=0, most=1)
        return Cascade(**values)

    def _keys(self, entry: object, kind: type, key: str) -> dict[str, Any]:
        """The members of a JSON object, after a check of their names against the attributes of ``kind``."""
        if not isinstance(entry, Mapping):
            raise RouteFileError(self._path, key, "must be a JSON object")
        known = {attribute.name: attribute for attribute in fields(kind)}
        place = f"{key}." if key else ""
        for name in entry:
            if name not in known:
                raise RouteFileError(self._path, f"{place}{name}", f"unknown key; known: {', '.join(known)}")
        for name, attribute in known.items():
            needed = attribute.default is MISSING and attribute.default_factory is MISSING
            if needed and name not in entry:
                raise RouteFileError(self._path, f"{place}{name}", "is missing")
        return dict(entry)

    def _number(self, values: dict[str, Any], name: str, key: str, *, least: float, most: float = math.inf) -> None:
        if name not in values:
            return
        value = values[name]
        number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not number or not least <= value <= most:
            allowed = f"from {least} to {most}" if most < math.inf else f"of at least {least}"
            place = f"{key}.{name}" if key else name
            raise RouteFileError(self._path, place, f"is {value!r}; it must be a number {allowed}")
        values[name] = float(value)

    def _tier(self, value: object, key: str, more: str = "") -> Tier:
        try:
            return Tier(value)
        except ValueError:
            known = ", ".join(tier.value for tier in Tier) + more
            raise RouteFileError(self._path, key, f"is {value!r}; it must be one of {known}") from None

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not value:
            raise RouteFileError(self._path, key, f"is {value!r}; it must be a text that is not empty")
        return value

    def _model_name(self, value: object, key: str) -> str:
        if not isinstance(value, str) or not _MODEL_NAME.fullmatch(value) or value.endswith(CANARY_SUFFIX):
            raise RouteFileError(self._path, key, f"is {value!r}; it must be the name of a model, and not of a canary")
        return value
