"""The measurements of a load test by second, for reports, verdicts and comparisons."""

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
        asked: requests scheduled.
        errors: by kind, including requests that timed out.
        latency: from the intended send time to the response, for successful requests, and the deadline for those that
            timed out: a percentile must not improve because the slowest responses never arrived.
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
        """Successful requests."""
        return self.asked - self.failed


@dataclass(frozen=True, slots=True)
class ServerShare:
    """Time of a model's requests inside the server, by stage, mean milliseconds per request.

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
    """Performance of the load generator itself.

    Attributes:
        lateness: from intended to actual send time.
        cpu_share: of one core, of the busiest worker.
        workers: number of processes.
        problem: why the numbers show the generator instead of the server; ``None`` if they show the server.
    """

    lateness: Histogram
    cpu_share: float
    workers: int
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class LoadRecord:
    """One run.

    Attributes:
        seconds: duration of sending.
        answered_seconds: duration of the responses; equal to ``seconds`` if the server kept up.
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
        """The summary of one task, or of all together for ``None``."""
        windows = self.tasks[name] if name else [window for one in self.tasks.values() for window in one]
        return TaskSummary.of(name or "all", windows, self.seconds, self.answered_seconds)

    def write(self, path: Path) -> None:
        """Write the record as JSON."""
        document = {"format": self.format, **asdict(self), "started_at": self.started_at.isoformat(timespec="seconds")}
        write_atomic(path, json.dumps(document, separators=(",", ":")).encode())

    @classmethod
    def read(cls, path: Path) -> LoadRecord:
        """Read a file that ``write`` wrote.

        Raises:
            ConfigError: the file is not a record.
        """
        try:
            return TypeAdapter(cls).validate_json(path.read_bytes())
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(map(str, problem["loc"]))
            raise ConfigError(
                path, f"not the record of a load run ({place}: {problem['msg']}); use a run.json"
            ) from None


@dataclass(frozen=True, slots=True)
class TaskSummary:
    """One task over the whole run.

    Attributes:
        asked_rate, answered_rate: per second; the latter counts successful requests only.
        token_rate: responses of streams per second; for a language model, its tokens.
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
