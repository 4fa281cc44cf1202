"""``slo.toml``: what a run must reach.

[all]                            # every request of the run
error_rate = 0.001               # at most this share may fail
minimum_rate = 45                # at least so many a second must be answered well

[tasks.embedding_premium]        # the requests of one task
p50_ms = 20
p95_ms = 60
p99_ms = 120
ttft_p95_ms = 500                # streams: to the first response
inter_token_p95_ms = 50          # streams: between two responses
minimum_token_rate = 200         # streams: at least so many responses a second, of a language model its tokens
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_PERCENTILE = re.compile(r"(?:(ttft|inter_token)_)?p(50|90|95|99|99_9)_ms")
_KNOWN = (
    "p50_ms, p90_ms, p95_ms, p99_ms, p99_9_ms (with ttft_ or inter_token_ before it for streams), "
    "error_rate, minimum_rate, minimum_token_rate"
)


@dataclass(frozen=True, slots=True)
class Objective:
    """One number that a run must reach.

    Attributes:
        task: its task, or ``None`` for all requests.
        key: as written in the file.
        limit: milliseconds, a share, or requests or tokens a second, as the key says.
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
        """The percentile asked for; NaN for a rate."""
        found = _PERCENTILE.fullmatch(self.key)
        return float(found.group(2).replace("_", ".")) if found else math.nan


@dataclass(frozen=True, slots=True)
class Slo:
    """All objectives of a file."""

    path: Path
    objectives: tuple[Objective, ...]

    @classmethod
    def read(cls, path: Path) -> Slo:
        """Parse and check.

        Raises:
            ConfigError: not TOML, an unknown key, a limit that is no number or contradicts another, or no objective.
        """
        try:
            document = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(path, f"not TOML: {error}") from None
        for key in document:
            if key not in ("all", "tasks"):
                raise ConfigError(path, f"unknown table or key {key!r}; there are [all] and [tasks.NAME]")
        tables: dict[str | None, Any] = {None: document.get("all", {})}
        tasks = document.get("tasks", {})
        if not isinstance(tasks, Mapping):
            raise ConfigError(path, "tasks must be tables, written [tasks.NAME]")
        tables.update(tasks)
        objectives = tuple(one for task, table in tables.items() for one in _objectives(path, task, table))
        if not objectives:
            raise ConfigError(path, f"holds no objective; there are: {_KNOWN}")
        return cls(path, objectives)

    def check_tasks(self, tasks: Iterable[str]) -> None:
        """Refuse a run that cannot answer it.

        Raises:
            ConfigError: it names a task that the run does not have.
        """
        known = set(tasks)
        for objective in self.objectives:
            if objective.task is not None and objective.task not in known:
                raise ConfigError(
                    self.path, f"[tasks.{objective.task}] is not in this run, which has: {', '.join(sorted(known))}"
                )

    def check_rates(self, asked_rates: Mapping[str | None, float]) -> None:
        """Refuse a run whose asked rates already break it.

        Args:
            asked_rates: requests a second by task, ``None`` for all.

        Raises:
            ConfigError: it wants more to be answered than is asked.
        """
        for objective in self.objectives:
            asked = asked_rates[objective.task]
            if objective.measure == "minimum_rate" and objective.limit > asked:
                raise ConfigError(
                    self.path,
                    f"minimum_rate = {objective.limit:g} cannot be met: the run asks only {asked:.4g} a second",
                )


def _objectives(path: Path, task: str | None, table: object) -> list[Objective]:
    place = "[all]" if task is None else f"[tasks.{task}]"
    if not isinstance(table, Mapping):
        raise ConfigError(path, f"{place} must be a table")
    found = []
    for key, limit in table.items():
        if key not in ("error_rate", "minimum_rate", "minimum_token_rate") and not _PERCENTILE.fullmatch(key):
            raise ConfigError(path, f"unknown key {key!r} in {place}; there are: {_KNOWN}")
        if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not math.isfinite(limit):
            raise ConfigError(path, f"{key} in {place} must be a number, not {limit!r}")
        if key == "error_rate" and not 0 <= limit < 1:
            raise ConfigError(path, f"error_rate in {place} is a share from 0 to below 1, not {limit!r}")
        if key != "error_rate" and limit <= 0:
            raise ConfigError(path, f"{key} in {place} must be above zero, not {limit!r}")
        found.append(Objective(task, key, float(limit)))
    for one in found:
        for other in found:
            if one.measure == other.measure and one.percent < other.percent and one.limit > other.limit:
                pair = f"{one.key} = {one.limit:g} is above {other.key} = {other.limit:g}"
                raise ConfigError(path, f"{place} contradicts itself: {pair}")
    return found
