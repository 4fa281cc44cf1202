"""The encoder's queue and threads, with a model that sums tokens."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from trireme_backends.encoder import Encoder, Vectors
from trireme_backends.errors import BackendError, InvalidOutputError, RequestError

from tests.deadlines import scaled

TIMEOUT_SECONDS = scaled(20.0)
POISON = 13


def token_sums(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """One row per text: the sum and the number of its ids."""
    if POISON in ids:
        raise RequestError("poison")
    return np.stack([(ids * mask).sum(axis=1), mask.sum(axis=1)], axis=1)


@pytest.fixture
def encoder() -> Iterator[Encoder]:
    encoder = Encoder(token_sums, threads=2)
    yield encoder
    encoder.close()


def test_each_request_gets_its_own_rows_in_order(encoder: Encoder) -> None:
    results: queue.Queue[tuple[int, Vectors | BackendError]] = queue.Queue()
    requests = [
        [[100 * request + row] * (1 + (request * 7 + row) % 9) for row in range(1 + request % 4)]
        for request in range(50)
    ]
    for number, texts in enumerate(requests):
        encoder.submit(texts, lambda result, number=number: results.put((number, result)))
    for _ in requests:
        number, result = results.get(timeout=TIMEOUT_SECONDS)
        assert not isinstance(result, BackendError)
        assert result.tolist() == [[sum(text), len(text)] for text in requests[number]]


def test_only_the_request_that_breaks_a_run_fails() -> None:
    gate = threading.Event()

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        gate.wait(TIMEOUT_SECONDS)
        return token_sums(ids, mask)

    encoder = Encoder(encode, threads=1)
    results: dict[int, Vectors | BackendError] = {}
    for token in (1, 2, POISON, 4):  # the first occupies the thread, the others form one batch
        encoder.submit([[token]], lambda result, token=token: results.update({token: result}))
    gate.set()
    encoder.close()
    assert str(results.pop(POISON)) == "poison"
    assert {token: result.tolist() for token, result in results.items()} == {token: [[token, 1]] for token in (1, 2, 4)}


def test_a_model_that_returns_too_few_rows_fails_all_texts() -> None:
    encoder = Encoder(lambda ids, mask: token_sums(ids, mask)[1:], threads=1)
    results: list[Vectors | BackendError] = []
    encoder.submit([[1], [2]], results.append)
    encoder.close()
    assert str(results[0]) == "the model returned 1 rows for 2 texts"


def test_closing_completes_queued_requests() -> None:
    encoder = Encoder(token_sums, threads=1)
    results: list[Vectors | BackendError] = []
    for _ in range(20):
        encoder.submit([[1, 2]], results.append)
    encoder.close()
    assert len(results) == 20


def test_submit_blocks_while_the_queue_is_full() -> None:
    gate = threading.Event()

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        gate.wait(TIMEOUT_SECONDS)
        return token_sums(ids, mask)

    encoder = Encoder(encode, threads=1)
    submitted: list[int] = []
    results: list[Vectors | BackendError] = []

    def flood() -> None:
        for number in range(40):
            encoder.submit([[1]] * 32, results.append)
            submitted.append(number)

    thread = threading.Thread(target=flood)
    thread.start()
    thread.join(0.2)
    assert len(submitted) < 40
    gate.set()
    thread.join(TIMEOUT_SECONDS)
    encoder.close()
    assert len(results) == 40


def test_only_the_text_with_a_non_finite_vector_fails_and_its_row_is_named() -> None:
    gate = threading.Event()

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        gate.wait(TIMEOUT_SECONDS)
        return np.where(ids[:, :1] == POISON, np.nan, token_sums(np.where(ids == POISON, 0, ids), mask))

    encoder = Encoder(encode, threads=1)
    results: dict[str, Vectors | BackendError] = {}
    for name, texts in {"first": [[1]], "neighbour": [[2], [3]], "broken": [[4], [POISON]]}.items():
        encoder.submit(texts, lambda result, name=name: results.update({name: result}))
    gate.set()
    encoder.close()
    assert isinstance(broken := results.pop("broken"), InvalidOutputError)
    assert str(broken) == "row 1 of the output contains a non-finite value"
    assert {name: result.tolist() for name, result in results.items()} == {
        "first": [[1, 1]], "neighbour": [[2, 1], [3, 1]],
    }  # fmt: skip


def test_outputs_of_different_shapes_are_rejected_with_their_shapes() -> None:
    encoder = Encoder(lambda ids, mask: ids * mask, threads=1)
    results: queue.Queue[Vectors | BackendError] = queue.Queue()
    encoder.submit([[1] * 900, [1, 2]], results.put)  # too different for one batch
    assert "the outputs of the texts have different shapes, [2] and [900]" in str(results.get(timeout=TIMEOUT_SECONDS))
    encoder.submit([[7]], results.put)
    encoder.close()
    assert str(results.get(timeout=TIMEOUT_SECONDS)) == "[[7]]"
