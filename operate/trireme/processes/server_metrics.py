"""Snapshots of a server's metrics, and differences between two of them."""

from __future__ import annotations

import itertools
import math
import time
import urllib.error
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from trireme.processes.ports import open_direct

# Requests queued for a model, and those of a language engine. Requests that a model is executing have no metric, but
# tritonserver waits for them on SIGTERM.
_IN_FLIGHT = ("nv_inference_pending_request_count", "trireme_generation_running", "trireme_generation_waiting")
# Progress of a language model; the steps include requests without streaming.
_GENERATED = ("trireme_generation_steps_total", "trireme_generation_output_tokens_total")
_CALL_SECONDS = 2.0

_Values = Mapping[tuple[str, ...], float]


@dataclass(frozen=True, slots=True)
class Metrics:
    """All samples of a ``/metrics`` page; empty if the server did not respond.

    Attributes:
        at: monotonic clock, seconds.
    """

    at: float = field(default_factory=time.monotonic)
    samples: Mapping[str, Sequence[Sample]] = field(default_factory=dict)

    @classmethod
    def read(cls, address: str, deadline_seconds: float) -> Metrics:
        """Read the page of the server at ``host:port``."""
        try:
            with open_direct(f"http://{address}/metrics", deadline_seconds) as response:
                return cls.parse(response.read().decode())
        except (urllib.error.URLError, OSError, ValueError):
            return cls()

    @classmethod
    def parse(cls, text: str) -> Metrics:
        """Parse ``text`` in Prometheus' text format."""
        samples: dict[str, list[Sample]] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append(sample)
        return cls(samples=samples)

    def sums(self, name: str, *labels: str, **equal: str) -> _Values:
        """Sum the samples of ``name`` whose labels equal ``equal``, grouped by the values of ``labels``."""
        sums: dict[tuple[str, ...], float] = {}
        for sample in self.samples.get(name, ()):
            if all(sample.labels.get(label) == value for label, value in equal.items()):
                key = tuple(sample.labels.get(label, "") for label in labels)
                sums[key] = sums.get(key, 0.0) + sample.value
        return sums


@dataclass(frozen=True, slots=True)
class MetricsWindow:
    """Two snapshots of one server."""

    before: Metrics
    after: Metrics

    @property
    def seconds(self) -> float:
        return self.after.at - self.before.at

    @property
    def is_complete(self) -> bool:
        """Whether the server responded both times; otherwise the difference is unknown."""
        return bool(self.before.samples and self.after.samples)

    def counts(self, name: str, *labels: str, **equal: str) -> _Values:
        """Increase of the counters of ``name``, grouped by the values of ``labels``."""
        if not self.is_complete:
            return {}
        before = self.before.sums(name, *labels, **equal)
        after = self.after.sums(name, *labels, **equal)
        # Counters start at 0 after a restart.
        return {key: value - (before.get(key, 0.0) if value >= before.get(key, 0.0) else 0.0)
                for key, value in after.items()}  # fmt: skip


def wait_until_quiet(address: str, deadline_seconds: float) -> bool:
    """Wait until a server has no requests in flight or no longer responds; return False at the deadline."""
    deadline = time.monotonic() + deadline_seconds
    while requests_in_flight(address) > 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def requests_in_flight(address: str) -> float:
    """Number of queued or generating requests; 0 if no server responds."""
    metrics = Metrics.read(address, _CALL_SECONDS)
    return sum(sum(metrics.sums(name).values()) for name in _IN_FLIGHT)


def generated(address: str, models: Collection[str]) -> float:
    """Progress counter of language models; increases while they generate. 0 if no server responds."""
    metrics = Metrics.read(address, _CALL_SECONDS)
    counts = (item for name in _GENERATED for item in metrics.sums(name, "model").items())
    return sum(count for (model,), count in counts if model in models)


def quantile(share: float, counts: Mapping[float, float]) -> float | None:
    """Return a quantile of a histogram; None without observations.

    Interpolates as Prometheus' ``histogram_quantile``: linear within a bucket, the last finite bound above it.

    Args:
        counts: upper bound of a bucket -> cumulative count of observations.
    """
    bounds = sorted(counts)
    total = counts[bounds[-1]] if bounds else 0.0
    if total <= 0:
        return None
    wanted = share * total
    for lower, upper in itertools.pairwise([0.0, *bounds]):
        if counts[upper] >= wanted:
            if math.isinf(upper):
                return lower
            below = counts.get(lower, 0.0)
            return lower + (upper - lower) * (wanted - below) / (counts[upper] - below)
    return bounds[-1]
