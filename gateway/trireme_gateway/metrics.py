"""Metrics of the gateway."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_INTER_TOKEN_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1)


class Metrics:
    """All metrics of one gateway, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        model, prefix = ("model",), "trireme_gateway"
        self.requests = Counter(f"{prefix}_requests_total", "Requests by status; 499: the caller disconnected",
                                ("endpoint", "model", "version", "status"), registry=self._registry)  # fmt: skip
        self.request_seconds = Histogram(f"{prefix}_request_seconds", "Seconds from request to end of response",
                                         ("endpoint",), buckets=_REQUEST_BUCKETS, registry=self._registry)  # fmt: skip
        self.first_token_seconds = Histogram(f"{prefix}_time_to_first_token_seconds", "Seconds to the first token",
                                             model, buckets=_FIRST_TOKEN_BUCKETS, registry=self._registry)  # fmt: skip
        self.inter_token_seconds = Histogram(f"{prefix}_inter_token_seconds", "Seconds between tokens of a stream",
                                             model, buckets=_INTER_TOKEN_BUCKETS, registry=self._registry)  # fmt: skip
        self.input_tokens = Counter(f"{prefix}_input_tokens_total", "Tokens of prompts and of embedded texts", model,
                                    registry=self._registry)  # fmt: skip
        self.output_tokens = Counter(f"{prefix}_output_tokens_total", "Tokens generated", model,
                                     registry=self._registry)  # fmt: skip
        self.streams = Gauge(f"{prefix}_streams", "Open streams", registry=self._registry)

    def text(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self._registry)
