"""The measurements of a load test, second by second: what reports, verdicts and comparisons read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from trireme.errors import ConfigError
from trireme.files import write_atomic

from trireme_loadtest.histogram import Histogram


@dataclass(frozen=True, slots=True)
class SecondCounts:
    """The requests of one task whose intended send time lies in one second.

    Attributes:
        second: from the start of the run.
        asked: requests that were to be sent.
        errors: by kind; a request that was not answered in time is among them.
        latency: from the intended send time to the answer, of requests that were answered well, and the deadline of
            those that were not answered in time: a percentile must not improve because the slowest never came.
        first_response, between_responses: of streams, time to the first response and between later ones.
    """

    second: int
    asked: int
    errors: Mapping[str, int] = field(default_factory=dict)
    latency: Histogram = field(default_factory=Histogram)
    first_response: Histogram = field(default_factory=Histogram)
    between_responses: Histogram = field(default_factory=Histogram)

    @property
    def failed(self) -> int:
        return sum(self.errors.values())

    @property
    def answered(self) -> int:
        """Requests that were answered well."""
        return self.asked - self.failed


@dataclass(frozen=True, slots=True)
class ServerShare:
    """Where a model's requests spent their time inside the server, mean milliseconds a request.

    Source: Triton's statistics extension, ``InferStatistics``.
    """

    model: str
    requests: int
    queue_ms: float
    compute_input_ms: float
    compute_infer_ms: float
    compute_output_ms: float
    mean_batch: float


@dataclass(frozen=True, slots=True)
class GeneratorStats:
    """How the load generator itself did.

    Attributes:
        lateness: from intended to actual send time.
        cpu_share: of one core, the busiest worker's.
        workers: processes.
        problem: why its numbers are those of the generator and not of the server; ``None`` when they are not.
    """

    lateness: Histogram
    cpu_share: float
    workers: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One run.

    Attributes:
        seconds: in which the requests were to be sent.
        answered_seconds: in which they were answered; the same where the server kept up.
        settings: of the load test, for the reader.
        tasks: windows by task, each in order of its seconds.
    """

    started_at: datetime
    seconds: float
    answered_seconds: float
    settings: Mapping[str, str | float]
    machine: Mapping[str, Any]
    tasks: Mapping[str, Sequence[SecondCounts]]
    generator: GeneratorStats
    server: Sequence[ServerShare] = ()
    format: Literal["trireme load run 1"] = "trireme load run 1"

    def task(self, name: str | None) -> TaskSummary:
        """One task, or all together for ``None``."""
        windows = self.tasks[name] if name else [window for one in self.tasks.values() for window in one]
        return TaskSummary.of(name or "all", windows, self.seconds, self.answered_seconds)

    def write(self, path: Path) -> None:
        """Write as JSON."""
        document = {"format": self.format, **asdict(self), "started_at": self.started_at.isoformat(timespec="seconds")}
        write_atomic(path, json.dumps(document, separators=(",", ":")).encode())

    @classmethod
    def read(cls, path: Path) -> LoadRecord:
        """Read what ``write`` wrote.

        Raises:
            ConfigError: it is something else.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise ConfigError(
                path, f"not the record of a load run ({place}: {problem['msg']}); give a run.json"
            ) from None


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """One task over the whole run.

    Attributes:
        asked_rate, answered_rate: a second; the latter counts only what was answered well.
        token_rate: responses of streams a second: of a language model its tokens.
    """

    name: str
    asked: int
    failed: int
    errors: Mapping[str, int]
    asked_rate: float
    answered_rate: float
    token_rate: float
    latency: Histogram
    first_response: Histogram
    between_responses: Histogram

    @classmethod
    def of(cls, name: str, windows: Sequence[SecondCounts], seconds: float, answered_seconds: float) -> TaskSummary:
        errors: Counter[str] = Counter()
        for window in windows:
            errors.update(window.errors)
        asked, failed = sum(window.asked for window in windows), sum(errors.values())
        tokens = sum(window.first_response.count + window.between_responses.count for window in windows)
        return cls(
            name,
            asked,
            failed,
            dict(errors.most_common()),
            asked / seconds,
            (asked - failed) / answered_seconds,
            tokens / answered_seconds,
            Histogram.merged(window.latency for window in windows),
            Histogram.merged(window.first_response for window in windows),
            Histogram.merged(window.between_responses for window in windows),
        )

    @property
    def error_rate(self) -> float:
        return self.failed / self.asked if self.asked else 0.0
