"""``slo.toml``: the objectives of a run.

[all]                            # all requests of the run
error_rate = 0.001               # at most this share may fail
minimum_rate = 45                # successful responses per second, at least

[tasks.embedding_premium]        # the requests of one task
p50_ms = 20
p95_ms = 60
p99_ms = 120
ttft_p95_ms = 500                # streams: to the first response
inter_token_p95_ms = 50          # streams: between two responses
minimum_token_rate = 200         # streams: responses per second (language models: tokens), at least
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, Field
from trireme.documents import TomlDocument
from trireme.errors import ConfigError

_PERCENTILE = re.compile(r"(?:(ttft|inter_token)_)?p(50|90|95|99|99_9)_ms")
_Key = Literal[
    "error_rate", "minimum_rate", "minimum_token_rate", "p50_ms", "p90_ms", "p95_ms", "p99_ms", "p99_9_ms",
    "ttft_p50_ms", "ttft_p90_ms", "ttft_p95_ms", "ttft_p99_ms", "ttft_p99_9_ms",
    "inter_token_p50_ms", "inter_token_p90_ms", "inter_token_p95_ms", "inter_token_p99_ms", "inter_token_p99_9_ms",
]  # fmt: skip
_Limits = Mapping[_Key, Annotated[float, Field(allow_inf_nan=False)]]


@dataclass(frozen=True, slots=True)
class Objective:
    """One limit that a run must meet.

    Attributes:
        task: its task, or ``None`` for all requests.
        key: as in the file.
        limit: milliseconds, a share, or requests or tokens per second, depending on the key.
    """

    task: str | None
    key: str
    limit: float

    @property
    def measure(self) -> str:
        """``latency``, ``ttft``, ``inter_token``, ``error_rate``, ``minimum_rate`` or ``minimum_token_rate``."""
        found = _PERCENTILE.fullmatch(self.key)
        return (found.group(1) or "latency") if found else self.key

    @property
    def percent(self) -> float:
        """The percentile of the key; NaN for a rate."""
        found = _PERCENTILE.fullmatch(self.key)
        return float(found.group(2).replace("_", ".")) if found else math.nan


def _objectives(task: str | None, limits: _Limits) -> list[Objective]:
    return [Objective(task, key, limit) for key, limit in limits.items()]


def _checked(limits: _Limits) -> _Limits:
    if not 0 <= limits.get("error_rate", 0) < 1:
        raise ValueError(f"error_rate is {limits['error_rate']:g}; it must be a share from 0 to below 1")
    for key, limit in limits.items():
        if limit <= 0 and key != "error_rate":
            raise ValueError(f"{key} is {limit:g}; it must be above zero")
    for one, other in itertools.permutations(_objectives(None, limits), 2):
        if one.measure == other.measure and one.percent < other.percent and one.limit > other.limit:
            raise ValueError(f"{one.key} = {one.limit:g} is above {other.key} = {other.limit:g}; lower it")
    return limits


_CheckedLimits = Annotated[_Limits, AfterValidator(_checked)]


@dataclass(frozen=True, slots=True)
class _Tables:
    all: _CheckedLimits = field(default_factory=dict)
    tasks: Mapping[str, _CheckedLimits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Slo:
    """All objectives of a file."""

    path: Path
    objectives: tuple[Objective, ...]

    @classmethod
    def read(cls, path: Path) -> Slo:
        """Parse and check.

        Raises:
            ConfigError: not TOML, an unknown key, a limit that is not a number or contradicts another, or no objective.
        """
        tables = TomlDocument.read(path).parse(_Tables)
        tasks = (one for task, limits in tables.tasks.items() for one in _objectives(task, limits))
        objectives = (*_objectives(None, tables.all), *tasks)
        if not objectives:
            raise ConfigError(path, f"has no objective; available: {', '.join(get_args(_Key))}")
        return cls(path, objectives)

    def check_tasks(self, tasks: Iterable[str]) -> None:
        """Reject objectives for tasks that the run does not have.

        Raises:
            ConfigError: an objective names such a task.
        """
        known = set(tasks)
        for objective in self.objectives:
            if objective.task is not None and objective.task not in known:
                raise ConfigError(
                    self.path, f"[tasks.{objective.task}] is not in this run; available: {', '.join(sorted(known))}"
                )

    def check_rates(self, asked_rates: Mapping[str | None, float]) -> None:
        """Reject objectives that the requested rates cannot meet.

        Args:
            asked_rates: requests per second by task, ``None`` for all.

        Raises:
            ConfigError: an objective requires more responses than there are requests.
        """
        for objective in self.objectives:
            asked = asked_rates[objective.task]
            if objective.measure == "minimum_rate" and objective.limit > asked:
                raise ConfigError(
                    self.path,
                    f"minimum_rate = {objective.limit:g} cannot be met: the run sends only {asked:.4g}/s",
                )
