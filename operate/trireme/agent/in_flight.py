"""How much a server still has to do, as far as its metrics tell."""

from __future__ import annotations

import time
import urllib.error
from collections.abc import Collection

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from trireme.processes.ports import open_direct

# Requests that wait for a model, and those that a language engine is at. What a model is computing just now has no
# metric: tritonserver itself waits for that when it is told to end.
_IN_FLIGHT = frozenset(
    ("nv_inference_pending_request_count", "trireme_generation_running", "trireme_generation_waiting")
)
# What a language model has computed, also for requests that get their answer in one piece.
_GENERATED = frozenset(("trireme_generation_steps_total", "trireme_generation_output_tokens_total"))
_CALL_SECONDS = 2.0


def wait_until_quiet(metrics_address: str, deadline_seconds: float) -> bool:
    """Wait until a server has nothing to do, is gone, or the deadline has passed; tells whether it is quiet."""
    deadline = time.monotonic() + deadline_seconds
    while requests_in_flight(metrics_address) > 0:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def requests_in_flight(metrics_address: str) -> float:
    """Requests that wait or are being generated; 0 where no server answers."""
    return sum(sample.value for sample in _samples(metrics_address) if sample.name in _IN_FLIGHT)


def generated(metrics_address: str, models: Collection[str]) -> float:
    """What language models have computed so far; rises while they are at work. 0 where no server answers."""
    samples = (sample for sample in _samples(metrics_address) if sample.name in _GENERATED)
    return sum(sample.value for sample in samples if sample.labels.get("model") in models)


def _samples(metrics_address: str) -> list[Sample]:
    try:
        with open_direct(f"http://{metrics_address}/metrics", _CALL_SECONDS) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, OSError):
        return []
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
