"""Merges requests by rows, runs them together and splits the result; a failed run is repeated request by request."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import BackendError, RequestError

Tensors = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Tensors], Tensors]
"""Maps input tensors of [rows, ...] to output tensors of the same number of rows."""


def run_merged(requests: Sequence[Tensors], run: Run) -> list[Tensors | BackendError]:
    """The result of each request, from as few runs as their shapes allow. The first dimension is the batch.

    Requests merge when they have the same inputs with the same data types and dimensions after the first. If a merged
    run fails, each request is run alone, so that only the faulty one fails.
    """
    results: dict[int, Tensors | BackendError] = {}
    for indices in _mergeable(requests):
        group = [requests[index] for index in indices]
        results.update(zip(indices, _run_group(group, run), strict=True))
    return [results[index] for index in range(len(requests))]


def run_each(requests: Sequence[Tensors], run: Run) -> list[Tensors | BackendError]:
    """The result of each request to a model that does not batch."""
    return [_attempt(tensors, run) for tensors in requests]


def _mergeable(requests: Sequence[Tensors]) -> list[list[int]]:
    """The indices of the requests, grouped by input signature."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, tensors in enumerate(requests):
        signature = tuple(sorted((name, tensor.dtype.str, tensor.shape[1:]) for name, tensor in tensors.items()))
        groups.setdefault(signature, []).append(index)
    return list(groups.values())


def _run_group(requests: Sequence[Tensors], run: Run) -> list[Tensors | BackendError]:
    def checked_run(tensors: Tensors) -> Tensors:
        return _check_rows(run(tensors), _rows(tensors))

    if len(requests) == 1:
        return run_each(requests, checked_run)
    rows = [_rows(tensors) for tensors in requests]
    try:
        outputs = checked_run({name: np.concatenate([tensors[name] for tensors in requests]) for name in requests[0]})
    except BackendError:
        return run_each(requests, checked_run)
    split = {name: np.split(tensor, np.cumsum(rows)[:-1]) for name, tensor in outputs.items()}
    return [{name: parts[index] for name, parts in split.items()} for index in range(len(requests))]


def _attempt(tensors: Tensors, run: Run) -> Tensors | BackendError:
    try:
        return run(tensors)
    except BackendError as error:
        return error


def _rows(tensors: Tensors) -> int:
    return len(next(iter(tensors.values())))


def _check_rows(outputs: Tensors, rows: int) -> Tensors:
    """Reject outputs without exactly one row per input row: splitting them would shift rows between requests."""
    for name, tensor in outputs.items():
        if tensor.shape[:1] != (rows,):
            raise RequestError(
                f"the model returned output '{name}' of shape {list(tensor.shape)} for {rows} input rows; "
                "the first dimension must be the number of rows"
            )
    return outputs
