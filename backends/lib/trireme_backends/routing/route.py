"""``route.json``: the variants of a task, with tier, cost and limits.

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

``docs/routing.md`` describes every key. The classes below are the schema of the file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated

from trireme_backends.errors import FileError
from trireme_backends.strict_json import Choice, Pattern, Range, read_json

CANARY_SUFFIX = "__canary"


class Tier(str, Enum):
    """Cost tier, cheapest first."""

    ECONOMY = "economy"
    STANDARD = "standard"
    PREMIUM = "premium"

    @property
    def rank(self) -> int:
        return _RANKS[self]


_RANKS = {tier: rank for rank, tier in enumerate(Tier)}
AUTO = "auto"

ModelName = Annotated[
    str,
    Pattern(rf"[A-Za-z0-9][A-Za-z0-9_.-]*(?<!{CANARY_SUFFIX})", "the name of a model, and not of a canary"),
]
Count = Annotated[int, Range(1)]
Cost = Annotated[float, Range(0)]
DurationMs = Annotated[float, Range(0.001)]
Timeout = Annotated[float, Range(1)]
Share = Annotated[float, Range(0, 1)]


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the calls of one variant.

    Attributes:
        timeout_ms: a call that takes longer is abandoned and counts as a failure of the variant.
        max_rows_per_call: rows merged into one call.
        max_calls_in_flight: concurrent calls; requests that arrive meanwhile wait and are merged.
        max_waiting_rows: rows that may wait; at this number the variant receives no further request.
        max_abandoned_calls: abandoned calls that still run (Triton cannot cancel them); at this number the variant
            receives no further call until one ends.
        max_streams: concurrent streams of a streaming route; further ones go to another variant.
    """

    timeout_ms: Timeout = 2000.0
    max_rows_per_call: Count = 16
    max_calls_in_flight: Count = 2
    max_waiting_rows: Count = 4096
    max_abandoned_calls: Count = 4
    max_streams: Count = 64


@dataclass(frozen=True, slots=True)
class Variant:
    """One model that does the task.

    Attributes:
        cost_per_1000: price of 1,000 requests, in any unit; ``max_cost`` is compared with it.
        expected_latency_ms: of one request on an idle machine; used until latencies are observed. For a streaming
            route: until the first token of a short prompt.
        quality: 0 to 1; default: the accuracy in the manifest of the pinned version.
        output_space: only variants of the same space may replace each other (the vectors of two encoders differ).
        expected_ms_per_token: for a streaming route, for each token after the first.
        prefill_ms_per_1000_characters: time that a long prompt adds to the first token.
    """

    name: ModelName
    tier: Tier
    cost_per_1000: Cost
    expected_latency_ms: DurationMs
    quality: Share | None = None
    output_space: str | None = None
    expected_ms_per_token: DurationMs = 1.0
    prefill_ms_per_1000_characters: Cost = 0.0
    limits: Limits = field(default_factory=Limits)

    @property
    def canary(self) -> str:
        return self.name + CANARY_SUFFIX


@dataclass(frozen=True, slots=True)
class Cascade:
    """Rules for ``tier=auto``: the first tier serves the request, the second one only rows with low confidence.

    Attributes:
        confidence_output: the variants' output with class probabilities, FP32 [classes].
        temperature: calibrates the probabilities (``trireme route calibrate``).
        threshold: minimum calibrated confidence at which the first tier's result is kept.
    """

    first_tier: Tier
    second_tier: Tier
    confidence_output: str
    temperature: Annotated[float, Range(0.01)]
    threshold: Share


@dataclass(frozen=True, slots=True)
class Route:
    """The rules of one task.

    Attributes:
        default_tier: for requests without a tier; ``None`` stands for ``auto``.
        deadline_ms: after this time a request fails, whatever its parameters.
        streams: the router only decides; callers stream from the variant themselves. Not every tier needs a variant.
    """

    task: str
    default_tier: Annotated[Tier | None, Choice({**{tier.value: tier for tier in Tier}, AUTO: None})]
    variants: tuple[Variant, ...]
    deadline_ms: Timeout = 30_000.0
    cascade: Cascade | None = None
    streams: bool = False


def load_route(path: Path) -> Route:
    """Read and check ``route.json``.

    Raises:
        FileError: the file is missing, is not JSON, has an unknown or missing key, a value of the wrong type or out of
            range, two variants of the same name, or no variant for a tier.
    """
    route = read_json(path, Route)
    _check_names_and_tiers(route, path, () if route.streams else Tier)
    if route.cascade and route.streams:
        raise FileError(
            path, "cascade", "is not allowed for a streaming route: the router does not see the response; remove it"
        )
    if route.cascade and route.cascade.first_tier.rank >= route.cascade.second_tier.rank:
        raise FileError(path, "cascade.second_tier", "must be above first_tier")
    return route


def check_variants(route: Route, path: Path, repository_dir: Path) -> None:
    """Check that every variant of a route is a model of the repository, loaded or not.

    Raises:
        FileError: a variant is not in the repository.
    """
    for index, variant in enumerate(route.variants):
        if not (repository_dir / variant.name / "config.pbtxt").is_file():
            raise FileError(path, f"variants[{index}].name", f"model {variant.name!r} is not in {repository_dir}")


def _check_names_and_tiers(route: Route, path: Path, tiers: Iterable[Tier]) -> None:
    names = [variant.name for variant in route.variants]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise FileError(path, f"variants[{index}].name", f"{name!r} is a duplicate; remove one")
    for tier in tiers:
        if not any(variant.tier is tier for variant in route.variants):
            raise FileError(path, "variants", f"no variant has the tier {tier.value!r}; add one")
