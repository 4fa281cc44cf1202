"""What a backend is told of its model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trireme_backends.errors import ModelError
from trireme_backends.model import Model


def model(tmp_path: Path, **parameters: str) -> Model:
    config = {
        "parameters": {key: {"string_value": value} for key, value in parameters.items()},
        "output": [{"name": "y"}],
    }
    (tmp_path / "1").mkdir()
    return Model.from_arguments(
        {"model_name": "m", "model_config": json.dumps(config), "model_repository": str(tmp_path), "model_version": "1"}
    )


def test_numbers_are_read_and_default_where_absent(tmp_path: Path) -> None:
    found = model(tmp_path, max_tokens="64")
    assert (found.integer("max_tokens", 256), found.integer("thread_count", 2)) == (64, 2)
    assert found.output_names() == ["y"]


@pytest.mark.parametrize("value", ["", "two", "-1", "2.5", "0"])
def test_a_number_that_is_none_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(ModelError, match=f"model 'm': parameter max_tokens is '{value}'"):
        model(tmp_path, max_tokens=value).integer("max_tokens", 256, least=1)


def test_a_missing_file_is_named_with_its_mend(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"1/model\.onnx is missing; export the model"):
        model(tmp_path).file("model.onnx")
