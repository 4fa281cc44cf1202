"""Results of calls: typed, frozen, arrays read-only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trireme_client.tensors import Array


@dataclass(frozen=True, slots=True)
class Timings:
    """Time and requests of a call.

    Attributes:
        total_ms: from the call to its return.
        requests: number of inference requests it was split into.
        attempts: inference requests sent, including retries and hedges.
        endpoint: the replica that sent the last response.
    """

    total_ms: float
    requests: int
    attempts: int
    endpoint: str


@dataclass(frozen=True, slots=True)
class InferResult:
    """The result of one call of a model.

    Attributes:
        outputs: by name; BYTES are arrays of dtype object with ``bytes``; read-only views of the message. If a call was
            split and the rows of an output differ in shape, an array of dtype object with one array per row.
        version: the version that served the call.
        parameters: of the server's response.
    """

    outputs: Mapping[str, Array]
    model: str
    version: str
    request_id: str
    parameters: Mapping[str, str | int | bool | float]
    timings: Timings

    def __getitem__(self, output: str) -> Array:
        try:
            return self.outputs[output]
        except KeyError:
            raise KeyError(
                f"{self.model} returned no output {output!r}; available: {', '.join(self.outputs)}"
            ) from None


@dataclass(frozen=True, slots=True)
class Route:
    """The variant that served a row, and why the router chose it."""

    variant: str
    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class _RoutedResult:
    """Different variants may serve rows: ``routes`` has one entry per row; the properties are of the first row."""

    routes: tuple[Route, ...]
    request_id: str
    timings: Timings

    @property
    def variant(self) -> str:
        return self.routes[0].variant if self.routes else ""

    @property
    def version(self) -> str:
        return self.routes[0].version if self.routes else ""

    @property
    def reason(self) -> str:
        return self.routes[0].reason if self.routes else ""


@dataclass(frozen=True, slots=True)
class Embeddings(_RoutedResult):
    """Attributes: vectors: FP32 [texts, dimensions]."""

    vectors: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class Classifications(_RoutedResult):
    """Attributes: labels: one per text; scores: FP32 [texts], of that label; probabilities: FP32 [texts, classes]."""

    labels: tuple[str, ...]
    scores: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.labels)
