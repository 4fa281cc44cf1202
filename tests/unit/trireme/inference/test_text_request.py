from __future__ import annotations

from typing import Any

import numpy as np
from trireme.inference.text_request import describe, short_reason
from trireme_client import InferResult, Timings


def texts(*values: bytes) -> np.ndarray[tuple[int, ...], np.dtype[np.object_]]:
    return np.array([values], dtype=np.object_)


def answer(outputs: dict[str, np.ndarray[Any, Any]], model: str, version: str) -> InferResult:
    return InferResult(outputs, model, version, "", {}, Timings(4.0, 1, 1, ""))


def test_label_is_told_with_its_score() -> None:
    outputs = {"LABEL": texts(b"positive"), "SCORE": np.array([[0.973]], dtype=np.float32)}
    told = describe(answer(outputs, "sentiment_premium", "3"))
    assert (told.answer, told.variant, told.version, told.reason) == ("positive (0.97)", "sentiment_premium", "3", "")


def test_vector_is_told_by_its_first_numbers_and_kept_whole() -> None:
    vector = np.arange(4, dtype=np.float32).reshape(1, 4)
    told = describe(answer({"EMBEDDING": vector}, "embedding_premium", "1"))
    assert told.answer == "[0.000, 1.000, 2.000, ...]"
    assert told.outputs == {"EMBEDDING": [0.0, 1.0, 2.0, 3.0]}


def test_router_names_variant_version_and_reason() -> None:
    outputs = {
        "LABEL": texts(b"negative"),
        "VARIANT": texts(b"sentiment_economy"),
        "VARIANT_VERSION": texts(b"2"),
        "ROUTE_REASON": texts(b'{"reason": "cascade_sure"}'),
    }
    told = describe(answer(outputs, "text_classification", "1"))
    assert (told.answer, told.variant, told.version) == ("negative", "sentiment_economy", "2")
    assert short_reason(told.reason) == "cascade_sure"
    assert told.outputs == {"LABEL": "negative"}


def test_bytes_that_are_not_utf8_can_be_shown() -> None:
    assert describe(answer({"TEXT": texts(b"caf\xe9")}, "m", "1")).answer == "caf\ufffd"
