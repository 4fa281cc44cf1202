"""Merging, running and splitting requests."""

from __future__ import annotations

import numpy as np
import pytest
from trireme_backends.batch import Tensors, run_each, run_merged
from trireme_backends.errors import BackendError, RequestError


def request(*values: float, width: int = 2) -> Tensors:
    return {"x": np.array([[value] * width for value in values], dtype=np.float32)}


class Doubler:
    """y = 2 x; rejects 13; records the number of rows of each run."""

    def __init__(self) -> None:
        self.runs: list[int] = []

    def __call__(self, tensors: Tensors) -> Tensors:
        self.runs.append(len(tensors["x"]))
        if (tensors["x"] == 13).any():
            raise RequestError("13 is rejected")
        return {"y": tensors["x"] * 2}


def values(result: Tensors | BackendError) -> list[float]:
    assert not isinstance(result, BackendError)
    return [float(row[0]) for row in result["y"]]


def test_requests_with_the_same_signature_share_a_run_and_get_their_own_rows() -> None:
    run = Doubler()
    results = run_merged([request(1), request(2, 3), request(4)], run)
    assert [values(result) for result in results] == [[2], [4, 6], [8]]
    assert run.runs == [4]


def test_requests_with_different_signatures_run_separately_and_keep_their_order() -> None:
    run = Doubler()
    results = run_merged([request(1), request(2, width=3), request(3)], run)
    assert [values(result) for result in results] == [[2], [4], [6]]
    assert sorted(run.runs) == [1, 2]


def test_only_the_faulty_request_of_a_failed_run_fails() -> None:
    results = run_merged([request(1), request(2), request(13), request(4)], Doubler())
    assert str(results[2]) == "13 is rejected"
    assert [values(results[index]) for index in (0, 1, 3)] == [[2], [4], [8]]


def test_a_wrong_number_of_rows_fails_all_requests() -> None:
    results = run_merged([request(1), request(2)], lambda tensors: {"y": tensors["x"][:0]})
    assert all(isinstance(result, RequestError) for result in results)
    assert "output 'y' of shape [0, 2] for 1 input rows" in str(results[0])


def test_a_model_that_does_not_batch_runs_once_per_request() -> None:
    run = Doubler()
    results = run_each([request(1), request(13)], run)
    assert values(results[0]) == [2]
    assert str(results[1]) == "13 is rejected"
    assert run.runs == [1, 1]


@pytest.mark.parametrize(("request_id", "message"), [("", "wrong"), ("a3", "request 'a3': wrong")])
def test_an_error_names_the_request_if_it_has_an_id(request_id: str, message: str) -> None:
    assert RequestError("wrong").about(request_id) == message
