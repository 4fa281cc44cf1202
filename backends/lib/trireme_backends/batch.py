"""Requests that are run together: merged by rows, run, and split again; a run that fails is repeated one by one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import BackendError, RequestError

Tensors = Mapping[str, npt.NDArray[Any]]
Run = Callable[[Tensors], Tensors]
"""Answers tensors of [rows, ...] with tensors of as many rows."""


def run_merged(requests: Sequence[Tensors], run: Run) -> list[Tensors | BackendError]:
    """The answer of each request, from as few runs as their shapes allow. The first dimension is the batch.

    Requests merge when they have the same inputs, alike in data type and in all other dimensions. When a run of several
    fails, each is run alone, so that only the culprit fails.
    """
    answers: dict[int, Tensors | BackendError] = {}
    for members in _alike(requests):
        group = [requests[index] for index in members]
        answers.update(zip(members, _run_group(group, run), strict=True))
    return [answers[index] for index in range(len(requests))]


def run_each(requests: Sequence[Tensors], run: Run) -> list[Tensors | BackendError]:
    """The answer of each request of a model that does not batch."""
    return [_attempt(tensors, run) for tensors in requests]


def _alike(requests: Sequence[Tensors]) -> list[list[int]]:
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, tensors in enumerate(requests):
        kind = tuple(sorted((name, tensor.dtype.str, tensor.shape[1:]) for name, tensor in tensors.items()))
        groups.setdefault(kind, []).append(index)
    return list(groups.values())


def _run_group(requests: Sequence[Tensors], run: Run) -> list[Tensors | BackendError]:
    def checked(tensors: Tensors) -> Tensors:
        return _checked(run(tensors), _rows(tensors))

    if len(requests) == 1:
        return run_each(requests, checked)
    rows = [_rows(tensors) for tensors in requests]
    try:
        answer = checked({name: np.concatenate([tensors[name] for tensors in requests]) for name in requests[0]})
    except BackendError:
        return run_each(requests, checked)
    split = {name: np.split(tensor, np.cumsum(rows)[:-1]) for name, tensor in answer.items()}
    return [{name: parts[index] for name, parts in split.items()} for index in range(len(requests))]


def _attempt(tensors: Tensors, run: Run) -> Tensors | BackendError:
    try:
        return run(tensors)
    except BackendError as error:
        return error


def _rows(tensors: Tensors) -> int:
    return len(next(iter(tensors.values())))


def _checked(answer: Tensors, rows: int) -> Tensors:
    """An answer that has not one row for each asked is not split: every row after the fault would be another's."""
    for name, tensor in answer.items():
        if tensor.shape[:1] != (rows,):
            raise RequestError(
                f"the model gave output '{name}' the shape {list(tensor.shape)}, and was asked {rows} rows"
            )
    return answer
