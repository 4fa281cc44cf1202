"""A model to ask, how often among the others, and with what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trireme.repository.folders import ModelRepository
from trireme.repository.golden import Tensors
from trireme.settings import Settings

from trireme_loadtest.errors import SpecError
from trireme_loadtest.inputs import from_file, from_golden


@dataclass(frozen=True, slots=True)
class LoadTask:
    """One of the things a load test asks.

    Attributes:
        weight: against those of the other tasks; zero is never asked.
        inputs: the requests to choose from, at least one.
    """

    model: str
    weight: float
    inputs: Sequence[Tensors]


def parse_task(spec: str, inputs: Path | None) -> LoadTask:
    """Read ``MODEL`` or ``MODEL=WEIGHT``.

    Args:
        inputs: texts, one a line; default: the golden samples of the model in this checkout.

    Raises:
        SpecError: the weight is none.
        NotFoundError: without ``inputs``, the checkout does not have the model.
        ConfigError: ``inputs`` holds no texts.
    """
    model, _, written = spec.partition("=")
    try:
        weight = float(written or 1)
    except ValueError:
        weight = -1.0
    if not 0 <= weight < float("inf"):
        raise SpecError(f"the weight of {spec!r} must be a number from zero up, like {model}=2")
    if inputs:
        return LoadTask(model, weight, from_file(inputs))
    repository = ModelRepository(Settings.from_environment().repository_dir)
    return LoadTask(model, weight, from_golden(repository.model(model)))
