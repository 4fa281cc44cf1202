"""Sends a variant and its canary the same requests at the same time, and counts what their callers see."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from trireme_client import ClientError, InferResult, OperatorClient

from trireme.errors import TriremeError
from trireme.processes.server_metrics import Metrics
from trireme.release.statistics import ObservationWindow, RequestOutcomes
from trireme.repository.folders import ModelRepository
from trireme.repository.golden import GoldenSample, Tensors, load_golden
from trireme.repository.model_config import load_model_config

_MAX_WORDS = 40
_MAX_TOKENS = 16
_SEED = 20
# From ``trireme_backends.generation.metrics``. The other finish reasons are a complete response or due to the caller.
_GENERATIONS = "trireme_generation_requests_total"
_SERVER_FAULTS = ("engine_failed", "overloaded")


def comparison_requests(repository: ModelRepository, variant: str, texts: Sequence[str]) -> Iterator[GoldenSample]:
    """Endless requests to a variant: ``texts``, otherwise new texts from the words of its golden samples.

    A language model continues them by greedy decoding, so that two responses can be compared. A variant that takes no
    text gets its golden samples in a cycle. The samples also give the tolerance of the comparison; without samples,
    responses must be equal.

    Raises:
        TriremeError: there are neither texts nor golden samples.
    """
    folder = repository.model(variant)
    config = load_model_config(folder.config_path)
    steps = [repository.model(step.model) for step in config.steps]
    names = {tensor.name for tensor in config.inputs}
    needed = {tensor.name for tensor in config.inputs if not tensor.optional}
    samples = [s for model in (folder, *steps) for s in load_golden(model) if needed <= set(s.inputs) <= names]
    tolerance = {name: allowed for sample in samples for name, allowed in sample.tolerance.items()}
    takes_text = names == {"TEXT"}
    text_input = "TEXT" if takes_text else "text_input"
    if text_input in names and (texts or samples):
        words = [
            word
            for sample in samples
            for text in sample.inputs.get(text_input, np.array([])).reshape(-1)
            for word in text.decode().split()
        ]
        rows = (text.encode() for text in (itertools.cycle(texts) if texts else _sentences(words)))
        fill = _text_inputs if takes_text else _generation_inputs
        return (GoldenSample("a text", fill(row), {}, {}, tolerance) for row in rows)
    if not samples:
        raise TriremeError(f"{variant} has no golden samples to compare responses on; add some to {folder.golden_dir}")
    return itertools.cycle(samples)


class Counts(Protocol):
    """Counts of requests since each replica started."""

    def of(self, model: str) -> list[RequestOutcomes]:
        """The counts of each replica; zero if it does not respond."""
        ...


class RequestCounts:
    """Counts for models that send one response: Triton's statistics."""

    def __init__(self, replicas: Sequence[OperatorClient], deadline_seconds: float) -> None:
        self._replicas, self._deadline_seconds = replicas, deadline_seconds

    def of(self, model: str) -> list[RequestOutcomes]:
        """The counts of all versions of ``model``."""
        return [self._of(replica, model) for replica in self._replicas]

    def _of(self, replica: OperatorClient, model: str) -> RequestOutcomes:
        try:
            entries = replica.statistics(self._deadline_seconds, model)
        except ClientError:
            return RequestOutcomes(0, 0)
        succeeded, failed = sum(entry.succeeded for entry in entries), sum(entry.failed for entry in entries)
        return RequestOutcomes(succeeded + failed, failed)


class GenerationCounts:
    """Counts for variants that stream: their engines' metrics.

    Triton counts a stream that ends in an error as successful, and callers call the pinned version of the engine
    directly.
    """

    def __init__(self, metrics_addresses: Sequence[str], repository: ModelRepository, deadline_seconds: float) -> None:
        self._addresses, self._repository = metrics_addresses, repository
        self._deadline_seconds = deadline_seconds

    def of(self, model: str) -> list[RequestOutcomes]:
        """The counts of the versions that the ensemble ``model`` is pinned to."""
        config = load_model_config(self._repository.model(model).config_path)
        pins = [(step.model, str(step.version)) for step in config.steps]
        return [self._of(address, pins) for address in self._addresses]

    def _of(self, address: str, pins: Sequence[tuple[str, str]]) -> RequestOutcomes:
        sums = Metrics.read(address, self._deadline_seconds).sums(_GENERATIONS, "model", "version", "finish_reason")
        counted = [(reason, int(count)) for (*pin, reason), count in sums.items() if tuple(pin) in pins]
        faults = sum(count for reason, count in counted if reason in _SERVER_FAULTS)
        return RequestOutcomes(sum(count for _, count in counted), faults)


class Shadow:
    """Compares both versions over one window.

    Example:
        >>> shadow = Shadow(client, counts, "embedding_economy", "embedding_economy__canary", requests, 5.0)
        >>> shadow.compare(300)
        >>> judge(shadow.window(), CanaryLimits())
    """

    def __init__(
        self,
        client: OperatorClient,
        counts: Counts,
        stable: str,
        canary: str,
        requests: Iterator[GoldenSample],
        deadline_seconds: float,
    ) -> None:
        """``client`` uses the address that callers use; ``counts`` come from the servers behind it."""
        self._client = client
        self._counts = counts
        self._sides = (stable, canary)
        self._requests = requests
        self._deadline_seconds = deadline_seconds
        self._before = [counts.of(side) for side in self._sides]
        self._sent = [0, 0]
        self._failed = [0, 0]
        self._latencies_ms: tuple[list[float], list[float]] = ([], [])
        self._compared = self._agreed = 0

    def compare(self, pairs: int, each: Callable[[], None] = lambda: None) -> None:
        """Send ``pairs`` requests to both sides; ``each`` is called after every pair, and may raise to stop."""
        for request in (next(self._requests) for _ in range(pairs)):
            # The order alternates, so that neither side always finds warm caches.
            order = (0, 1) if sum(self._sent) // 2 % 2 else (1, 0)
            responses = {side: self._infer(side, request.inputs) for side in order}
            stable, canary = responses[0], responses[1]
            if stable and canary:
                self._compared += 1
                expected = GoldenSample("", request.inputs, stable.outputs, {}, request.tolerance)
                self._agreed += not expected.differences(canary.outputs)
            each()

    def window(self) -> ObservationWindow:
        """All measurements so far."""
        outcomes = [self._outcomes(side) for side in (0, 1)]
        return ObservationWindow(
            outcomes[0], outcomes[1], *self._latencies_ms, compared=self._compared, agreed=self._agreed
        )

    def _infer(self, side: int, inputs: Tensors) -> InferResult | None:
        self._sent[side] += 1
        try:
            response = self._client.infer(self._sides[side], inputs, self._deadline_seconds)
        except ClientError:
            self._failed[side] += 1
            return None
        self._latencies_ms[side].append(response.timings.total_ms)
        return response

    def _outcomes(self, side: int) -> RequestOutcomes:
        pairs = list(zip(self._before[side], self._counts.of(self._sides[side]), strict=True))
        # Servers count these requests too, except those lost in a restart, after which their counts are lower.
        return RequestOutcomes(
            requests=max(self._sent[side], sum(max(now.requests - before.requests, 0) for before, now in pairs)),
            errors=max(self._failed[side], sum(max(now.errors - before.errors, 0) for before, now in pairs)),
        )


def _text_inputs(text: bytes) -> Tensors:
    return {"TEXT": np.array([[text]], dtype=np.object_)}


def _generation_inputs(text: bytes) -> Tensors:
    sampling = json.dumps({"temperature": 0, "max_tokens": _MAX_TOKENS}).encode()
    given = {"text_input": text, "sampling_parameters": sampling}
    return {name: np.array([value], dtype=np.object_) for name, value in given.items()}


def _sentences(words: Sequence[str]) -> Iterator[str]:
    generator = random.Random(_SEED)
    while True:
        yield " ".join(generator.choices(words, k=generator.randint(1, _MAX_WORDS)))
