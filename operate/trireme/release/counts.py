"""How many requests of all callers a version has had, and how many of them failed, as each replica counts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from trireme_client import ClientError, OperatorClient

from trireme.processes.server_metrics import Metrics
from trireme.release.statistics import RequestOutcomes
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import load_model_config

# Of ``trireme_backends.generation.metrics``. Other ends are a whole answer, the caller's fault or the caller's wish.
_GENERATIONS = "trireme_generation_requests_total"
_SERVER_FAULTS = ("engine_failed", "overloaded")


class Counts(Protocol):
    """What was counted since each replica started."""

    def of(self, model: str) -> list[RequestOutcomes]:
        """By replica; one that does not answer has counted nothing."""
        ...


class RequestCounts:
    """Of models that answer once: Triton's own counts."""

    def __init__(self, replicas: Sequence[OperatorClient], deadline_seconds: float) -> None:
        self._replicas, self._deadline_seconds = replicas, deadline_seconds

    def of(self, model: str) -> list[RequestOutcomes]:
        """Of ``model`` in all its versions."""
        return [self._of(replica, model) for replica in self._replicas]

    def _of(self, replica: OperatorClient, model: str) -> RequestOutcomes:
        try:
            entries = replica.statistics(self._deadline_seconds, model)
        except ClientError:
            return RequestOutcomes(0, 0)
        succeeded, failed = sum(entry.succeeded for entry in entries), sum(entry.failed for entry in entries)
        return RequestOutcomes(succeeded + failed, failed)


class GenerationCounts:
    """Of variants that stream: their engines' own counts.

    Triton takes a stream that ends in an error for one that was answered, and callers ask the pinned version of the
    engine itself.
    """

    def __init__(self, metrics_addresses: Sequence[str], repository: ModelRepository, deadline_seconds: float) -> None:
        self._addresses, self._repository = metrics_addresses, repository
        self._deadline_seconds = deadline_seconds

    def of(self, model: str) -> list[RequestOutcomes]:
        """Of the versions that the ensemble ``model`` is pinned to."""
        config = load_model_config(self._repository.model(model).config_path)
        pins = [(step.model, str(step.version)) for step in config.steps]
        return [self._of(address, pins) for address in self._addresses]

    def _of(self, address: str, pins: Sequence[tuple[str, str]]) -> RequestOutcomes:
        sums = Metrics.read(address, self._deadline_seconds).sums(_GENERATIONS, "model", "version", "finish_reason")
        counted = [(reason, int(count)) for (*pin, reason), count in sums.items() if tuple(pin) in pins]
        faults = sum(count for reason, count in counted if reason in _SERVER_FAULTS)
        return RequestOutcomes(sum(count for _, count in counted), faults)
