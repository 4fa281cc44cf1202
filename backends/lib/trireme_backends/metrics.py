"""Metrics of a backend on Triton's own ``/metrics``.

Updating a metric sends a message to the server and takes 20 microseconds, too much for every request or token. So a
backend records events, and a thread sums them up and sends them every half second.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

_INTERVAL_SECONDS = 0.5
_Key = tuple[str, tuple[tuple[str, str], ...]]
_Event = TypeVar("_Event")


class MetricWriter:
    """Writes the metric families of one backend. Only its thread may call ``count``, ``set`` and ``observe``.

    Example:
        >>> writer = MetricWriter(pb_utils, {"task": "echo"}, counters=COUNTERS, gauges=GAUGES, histograms=HISTOGRAMS)
        >>> writer.start(collect)  # which calls writer.count("requests_total", 3, outcome="ok")
    """

    def __init__(
        self,
        pb_utils: Any,
        labels: Mapping[str, str],
        *,
        counters: Mapping[str, str],
        gauges: Mapping[str, str],
        histograms: Mapping[str, tuple[str, Sequence[float]]],
    ) -> None:
        """``labels`` are on every metric; families map a name to its description, and to buckets for a histogram."""
        kinds = pb_utils.MetricFamily
        described = [(name, text, kinds.COUNTER) for name, text in counters.items()]
        described += [(name, text, kinds.GAUGE) for name, text in gauges.items()]
        described += [(name, text, kinds.HISTOGRAM) for name, (text, _) in histograms.items()]
        self._families = {name: kinds(name=name, description=text, kind=kind) for name, text, kind in described}
        self._buckets = {name: {"buckets": list(buckets)} for name, (_, buckets) in histograms.items()}
        self._labels = labels
        self._metrics: dict[_Key, Any] = {}
        self._counts: Counter[_Key] = Counter()
        self._closed = threading.Event()

    def start(self, collect: Callable[[], None]) -> None:
        """Call ``collect`` every half second in a thread, and a last time on close."""
        self._collect = collect
        self._thread = threading.Thread(target=self._run, daemon=True, name="metrics")
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join(timeout=2.0)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter; everything counted in one collection is sent as one sum."""
        self._counts[name, tuple(labels.items())] += amount  # type: ignore[assignment] # typeshed has whole numbers

    def set(self, name: str, value: float, **labels: str) -> None:
        self.metric(name, tuple(labels.items())).set(value)

    def observe(self, name: str, value: float, **labels: str) -> None:
        self.metric(name, tuple(labels.items())).observe(value)

    def metric(self, name: str, labels: tuple[tuple[str, str], ...] = ()) -> Any:
        """Triton's metric; created, and thus exposed, on the first call."""
        key = (name, labels)
        if key not in self._metrics:
            every = {**self._labels, **dict(labels)}
            self._metrics[key] = self._families[name].Metric(labels=every, **self._buckets.get(name, {}))
        return self._metrics[key]

    def _run(self) -> None:
        closing = False
        while not closing:
            closing = self._closed.wait(_INTERVAL_SECONDS)
            self._collect()
            for key, amount in self._counts.items():
                self.metric(*key).increment(amount)
            self._counts.clear()


def drain(events: deque[_Event]) -> list[_Event]:
    """Take the events present now. Appending to and popping from a deque needs no lock."""
    return [events.popleft() for _ in range(len(events))]
