"""Requests merged, run and split."""

from __future__ import annotations

import numpy as np
import pytest
from trireme_backends.batch import Tensors, run_each, run_merged
from trireme_backends.errors import BackendError, RequestError


def request(*values: float, width: int = 2) -> Tensors:
    return {"x": np.array([[value] * width for value in values], dtype=np.float32)}


class Doubler:
    """y = 2 x; refuses 13; remembers how many rows each run had."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, tensors: Tensors) -> Tensors:
        self.runs.append(len(tensors["x"]))
        if (tensors["x"] == 13).any():
            raise RequestError("13 is refused")
        return {"y": tensors["x"] * 2}


def values(answer: Tensors | BackendError) -> list[float]:
    assert not isinstance(answer, BackendError)
    return [float(row[0]) for row in answer["y"]]


def test_like_requests_share_a_run_and_get_their_own_rows() -> None:
    run = Doubler()
    answers = run_merged([request(1), request(2, 3), request(4)], run)
    assert [values(answer) for answer in answers] == [[2], [4, 6], [8]]
    assert run.runs == [4]


def test_unlike_requests_are_run_apart_and_answered_in_order() -> None:
    run = Doubler()
    answers = run_merged([request(1), request(2, width=3), request(3)], run)
    assert [values(answer) for answer in answers] == [[2], [4], [6]]
    assert sorted(run.runs) == [1, 2]


def test_only_the_culprit_of_a_failed_run_fails() -> None:
    answers = run_merged([request(1), request(2), request(13), request(4)], Doubler())
    assert str(answers[2]) == "13 is refused"
    assert [values(answers[index]) for index in (0, 1, 3)] == [[2], [4], [8]]


def test_a_wrong_count_of_rows_fails_all_and_shifts_none() -> None:
    answers = run_merged([request(1), request(2)], lambda tensors: {"y": tensors["x"][:0]})
    assert all(isinstance(answer, RequestError) for answer in answers)
    assert "output 'y' the shape [0, 2], and was asked 1 rows" in str(answers[0])


def test_models_that_do_not_batch_are_run_once_a_request() -> None:
    run = Doubler()
    answers = run_each([request(1), request(13)], run)
    assert values(answers[0]) == [2]
    assert str(answers[1]) == "13 is refused"
    assert run.runs == [1, 1]


@pytest.mark.parametrize(("request_id", "sentence"), [("", "wrong"), ("a3", "request 'a3': wrong")])
def test_an_error_names_the_request_that_has_a_name(request_id: str, sentence: str) -> None:
    assert RequestError("wrong").about(request_id) == sentence
