"""Mapping probabilities to labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from trireme_backends.errors import ModelError, RequestError
from trireme_backends.labels import LabelDecoder


@pytest.fixture
def decoder(tmp_path: Path) -> LabelDecoder:
    path = tmp_path / "labels.json"
    path.write_text('["negative", "positive"]')
    return LabelDecoder(path)


def test_the_label_of_the_most_probable_class_is_returned(decoder: LabelDecoder) -> None:
    label, score = decoder.decode(np.array([[0.9, 0.1], [0.2, 0.8]], dtype=np.float32))
    assert label.tolist() == [[b"negative"], [b"positive"]]
    assert score.tolist() == [[np.float32(0.9)], [np.float32(0.8)]]
    assert score.dtype == np.float32


def test_the_number_of_columns_must_be_the_number_of_labels(decoder: LabelDecoder) -> None:
    with pytest.raises(RequestError, match=r"shape \[1, 3\]; it must be \[rows, 2\]"):
        decoder.decode(np.zeros((1, 3), dtype=np.float32))


def test_a_non_finite_value_is_rejected_with_its_row(decoder: LabelDecoder) -> None:
    with pytest.raises(RequestError, match="row 1 of PROBABILITIES"):
        decoder.decode(np.array([[0.5, 0.5], [np.nan, 0.5]], dtype=np.float32))


@pytest.mark.parametrize("text", ["", "{}", "[]", "[1, 2]"])
def test_an_invalid_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(ModelError, match=r"labels\.json"):
        LabelDecoder(path)
