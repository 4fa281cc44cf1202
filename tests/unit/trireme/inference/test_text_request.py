from __future__ import annotations

from typing import Any

import numpy as np
from trireme.inference.text_request import describe, short_reason
from trireme_client import InferResult, Timings


def texts(*values: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.object_]]:
    return np.array([values], dtype=np.object_)


def result(outputs: dict[str, np.ndarray[Any, Any]], model: str, version: str) -> InferResult:
    return InferResult(outputs, model, version, "", {}, Timings(4.0, 1, 1, ""))


def test_a_label_is_shown_with_its_score() -> None:
    outputs = {"LABEL": texts(b"positive"), "SCORE": np.array([[0.973]], dtype=np.float32)}
    response = describe(result(outputs, "sentiment_premium", "3"))
    assert response.answer == "positive (0.97)"
    assert (response.variant, response.version, response.reason) == ("sentiment_premium", "3", "")


def test_a_vector_is_shown_by_its_first_numbers_and_kept_complete() -> None:
    vector = np.arange(4, dtype=np.float32).reshape(1, 4)
    response = describe(result({"EMBEDDING": vector}, "embedding_premium", "1"))
    assert response.answer == "[0.000, 1.000, 2.000, ...]"
    assert response.outputs == {"EMBEDDING": [0.0, 1.0, 2.0, 3.0]}


def test_a_router_reports_variant_version_and_reason() -> None:
    outputs = {
        "LABEL": texts(b"negative"),
        "VARIANT": texts(b"sentiment_economy"),
        "VARIANT_VERSION": texts(b"2"),
        "ROUTE_REASON": texts(b'{"reason": "cascade_sure"}'),
    }
    response = describe(result(outputs, "text_classification", "1"))
    assert (response.answer, response.variant, response.version) == ("negative", "sentiment_economy", "2")
    assert short_reason(response.reason) == "cascade_sure"
    assert response.outputs == {"LABEL": "negative"}


def test_bytes_that_are_not_utf8_are_shown() -> None:
    assert describe(result({"TEXT": texts(b"caf\xe9")}, "m", "1")).answer == "caf\ufffd"
