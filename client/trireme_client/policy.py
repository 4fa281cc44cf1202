"""Policies for retries, hedging and ejecting replicas, frozen and validated on creation, and their counters."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Calls whose unused share is kept: an outage after a long quiet time must not find a budget of thousands.
_REMEMBERED_CALLS = 1000


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When a failed attempt is repeated.

    Only safe attempts are repeated: a request that was never sent, or a lost request without a sequence id. A request
    that was never sent costs nothing; the others draw on a budget, so that an unhealthy server is not flooded.

    Attributes:
        max_attempts: attempts of one call; 1 disables retries. A replica not yet tried always gets one more attempt.
        budget_percent: repeated requests as a share of all calls.
        budget_floor: requests that may be repeated before ``budget_percent`` of the calls so far reach that number.
        backoff_ms: the n-th wait is drawn from 0 to ``backoff_ms * 2**n`` (full jitter: Brooker, "Exponential Backoff
            And Jitter", AWS Architecture Blog, 2015).
        max_backoff_ms: the longest wait.
        attempt_deadline_ms: deadline of one attempt; None: all that is left of the call's deadline.

    Example:
        >>> RetryPolicy(max_attempts=1)     # off
    """

    max_attempts: int = 3
    budget_percent: float = 10.0
    budget_floor: int = 10
    backoff_ms: float = 25.0
    max_backoff_ms: float = 1000.0
    attempt_deadline_ms: float | None = None

    def __post_init__(self) -> None:
        _require(self.max_attempts >= 1, "RetryPolicy.max_attempts", self.max_attempts, "at least 1")
        _require(0 <= self.budget_percent <= 100, "RetryPolicy.budget_percent", self.budget_percent, "0 to 100")
        _require(self.budget_floor >= 0, "RetryPolicy.budget_floor", self.budget_floor, "0 or more")
        _require(self.backoff_ms >= 0, "RetryPolicy.backoff_ms", self.backoff_ms, "0 or more")
        _require(self.max_backoff_ms >= self.backoff_ms, "RetryPolicy.max_backoff_ms", self.max_backoff_ms,
                 "at least backoff_ms")  # fmt: skip
        attempt = self.attempt_deadline_ms
        _require(attempt is None or attempt >= 1, "RetryPolicy.attempt_deadline_ms", attempt, "at least 1")


@dataclass(frozen=True, slots=True)
class HedgePolicy:
    """When a slow request is sent a second time, to another replica if possible; the slower one is cancelled.

    Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013.

    Attributes:
        percentile: of the model's recorded latencies; a slower request is hedged.
        budget_percent: hedges, as a share of all calls.
        min_samples: responses to record before hedging.
        min_delay_ms: minimum delay before hedging.
    """

    percentile: float = 95.0
    budget_percent: float = 5.0
    min_samples: int = 100
    min_delay_ms: float = 1.0

    def __post_init__(self) -> None:
        _require(0 < self.percentile < 100, "HedgePolicy.percentile", self.percentile, "between 0 and 100")
        _require(0 <= self.budget_percent <= 100, "HedgePolicy.budget_percent", self.budget_percent, "0 to 100")
        _require(self.min_samples >= 1, "HedgePolicy.min_samples", self.min_samples, "at least 1")
        _require(self.min_delay_ms >= 0, "HedgePolicy.min_delay_ms", self.min_delay_ms, "0 or more")


@dataclass(frozen=True, slots=True)
class HealthPolicy:
    """How replicas are probed. Probing starts with more than one replica, with a host name, or with a stream.

    Attributes:
        interval_ms: between two probes of a replica.
        probe_deadline_ms: a probe that takes longer has failed.
        eject_after: consecutive failed probes until a replica gets no requests and its pending requests are cancelled.
        probe_model, probe_inputs: an inference used as the probe, because a server reports ready while a model's
            process is dead. Default: the server's readiness.
        resolve_ms: between two lookups of a host name.
    """

    interval_ms: float = 500.0
    probe_deadline_ms: float = 1000.0
    eject_after: int = 2
    probe_model: str | None = None
    probe_inputs: Mapping[str, Any] = field(default_factory=dict)
    resolve_ms: float = 5000.0

    def __post_init__(self) -> None:
        for name in ("interval_ms", "probe_deadline_ms", "resolve_ms", "eject_after"):
            _require(getattr(self, name) >= 1, f"HealthPolicy.{name}", getattr(self, name), "at least 1")
        _require(bool(self.probe_model) or not self.probe_inputs, "HealthPolicy.probe_inputs", dict(self.probe_inputs),
                 "given together with probe_model")  # fmt: skip


class Budget:
    """Extra requests as a share of calls: ``floor`` at once, then at most ``percent`` of all calls."""

    def __init__(self, percent: float, floor: int = 0) -> None:
        self._percent, self._floor = percent, floor
        self._earned_percent = 0.0  # 100 are one request
        self._spent = 0.0
        self._lock = threading.Lock()

    def earn(self) -> None:
        """Count one call. Lock-free: a lost count only makes the budget smaller."""
        self._earned_percent += self._percent

    def spend(self) -> bool:
        """Take one extra request; False if none is left."""
        with self._lock:
            earned = self._earned_percent / 100
            self._spent = max(self._spent, earned - self._percent / 100 * _REMEMBERED_CALLS)
            if self._spent + 1 > max(self._floor, earned):
                return False
            self._spent += 1
            return True


class Latencies:
    """A percentile of a model's recent latencies."""

    def __init__(self, percentile: float, min_samples: int) -> None:
        self._rank, self._min_samples = percentile / 100.0, min_samples
        self._recent: dict[str, deque[float]] = {}
        self._percentiles: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def record(self, model: str, latency_s: float) -> None:
        """Add the latency of one response."""
        recent = self._recent.setdefault(model, deque(maxlen=max(1000, self._min_samples)))
        recent.append(latency_s)
        count = self._counts[model] = self._counts.get(model, 0) + 1
        # Sorting a thousand numbers at each call would cost more than the call.
        if count >= self._min_samples and (count % 50 == 0 or model not in self._percentiles):
            ordered = sorted(recent.copy())
            self._percentiles[model] = ordered[min(len(ordered) - 1, int(self._rank * len(ordered)))]

    def at_percentile(self, model: str) -> float | None:
        """In seconds; None below ``min_samples`` responses."""
        return self._percentiles.get(model)


def _require(holds: bool, name: str, value: object, allowed: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; it must be {allowed}")
