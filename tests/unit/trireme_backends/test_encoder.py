"""The encoder's queue and threads, with a model that counts tokens."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from trireme_backends.encoder import Encoder, Vectors
from trireme_backends.errors import AnswerError, BackendError, RequestError

from tests.deadlines import scaled

PATIENCE_SECONDS = scaled(20.0)
POISON = 13


def token_sums(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """One row for each text: the sum of its ids, and how many they are."""
    if POISON in ids:
        raise RequestError("poison")
    return np.stack([(ids * mask).sum(axis=1), mask.sum(axis=1)], axis=1)


@pytest.fixture
def encoder() -> Iterator[Encoder]:
    encoder = Encoder(token_sums, threads=2)
    yield encoder
    encoder.close()


def test_each_request_gets_its_own_rows_in_order(encoder: Encoder) -> None:
    answers: queue.Queue[tuple[int, Vectors | BackendError]] = queue.Queue()
    requests = [
        [[100 * request + row] * (1 + (request * 7 + row) % 9) for row in range(1 + request % 4)]
        for request in range(50)
    ]
    for number, texts in enumerate(requests):
        encoder.submit(texts, lambda answer, number=number: answers.put((number, answer)))
    for _ in requests:
        number, answer = answers.get(timeout=PATIENCE_SECONDS)
        assert not isinstance(answer, BackendError)
        assert answer.tolist() == [[sum(text), len(text)] for text in requests[number]]


def test_only_the_request_that_breaks_a_run_fails() -> None:
    gate = threading.Event()

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        gate.wait(PATIENCE_SECONDS)
        return token_sums(ids, mask)

    encoder = Encoder(encode, threads=1)
    answers: dict[int, Vectors | BackendError] = {}
    for token in (1, 2, POISON, 4):  # the first occupies the thread, the others meet in one batch
        encoder.submit([[token]], lambda answer, token=token: answers.update({token: answer}))
    gate.set()
    encoder.close()
    assert str(answers.pop(POISON)) == "poison"
    assert {token: answer.tolist() for token, answer in answers.items()} == {token: [[token, 1]] for token in (1, 2, 4)}


def test_a_model_that_answers_too_few_rows_fails_all_and_shifts_none() -> None:
    encoder = Encoder(lambda ids, mask: token_sums(ids, mask)[1:], threads=1)
    answers: list[Vectors | BackendError] = []
    encoder.submit([[1], [2]], answers.append)
    encoder.close()
    assert str(answers[0]) == "the model gave 1 rows for 2 texts"


def test_closing_answers_what_waits() -> None:
    encoder = Encoder(token_sums, threads=1)
    answers: list[Vectors | BackendError] = []
    for _ in range(20):
        encoder.submit([[1, 2]], answers.append)
    encoder.close()
    assert len(answers) == 20


def test_a_flood_waits_outside() -> None:
    gate = threading.Event()

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        gate.wait(PATIENCE_SECONDS)
        return token_sums(ids, mask)

    encoder = Encoder(encode, threads=1)
    submitted: list[int] = []
    answers: list[Vectors | BackendError] = []

    def flood() -> None:
        for number in range(40):
            encoder.submit([[1]] * 32, answers.append)
            submitted.append(number)

    thread = threading.Thread(target=flood)
    thread.start()
    thread.join(0.2)
    assert len(submitted) < 40
    gate.set()
    thread.join(PATIENCE_SECONDS)
    encoder.close()
    assert len(answers) == 40


def test_only_the_text_whose_vector_is_not_finite_fails_and_its_row_is_named() -> None:
    gate = threading.Event()

    def encode(ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        gate.wait(PATIENCE_SECONDS)
        return np.where(ids[:, :1] == POISON, np.nan, token_sums(np.where(ids == POISON, 0, ids), mask))

    encoder = Encoder(encode, threads=1)
    answers: dict[str, Vectors | BackendError] = {}
    for name, texts in {"first": [[1]], "neighbour": [[2], [3]], "broken": [[4], [POISON]]}.items():
        encoder.submit(texts, lambda answer, name=name: answers.update({name: answer}))
    gate.set()
    encoder.close()
    assert isinstance(broken := answers.pop("broken"), AnswerError)
    assert str(broken) == "row 1 of the answer holds a value that is not a finite number"
    assert {name: answer.tolist() for name, answer in answers.items()} == {
        "first": [[1, 1]], "neighbour": [[2, 1], [3, 1]],
    }  # fmt: skip


def test_texts_that_make_no_tensor_together_are_refused_with_their_shapes() -> None:
    encoder = Encoder(lambda ids, mask: ids * mask, threads=1)
    answers: queue.Queue[Vectors | BackendError] = queue.Queue()
    encoder.submit([[1] * 900, [1, 2]], answers.put)  # too different for one batch
    assert "the texts came out in the shapes [2] and [900]" in str(answers.get(timeout=PATIENCE_SECONDS))
    encoder.submit([[7]], answers.put)
    encoder.close()
    assert str(answers.get(timeout=PATIENCE_SECONDS)) == "[[7]]"
