"""A model as Triton passes it to a backend."""

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


def test_integers_are_read_and_have_defaults(tmp_path: Path) -> None:
    found = model(tmp_path, max_tokens="64")
    assert (found.integer("max_tokens", 256), found.integer("thread_count", 2)) == (64, 2)
    assert found.output_names() == ["y"]


@pytest.mark.parametrize("value", ["", "two", "-1", "2.5", "0"])
def test_an_invalid_integer_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(ModelError, match=f"model 'm': parameter max_tokens is '{value}'"):
        model(tmp_path, max_tokens=value).integer("max_tokens", 256, minimum=1)


def test_a_missing_file_is_named_with_its_fix(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"1/model\.onnx is missing; export the model"):
        model(tmp_path).file("model.onnx")
