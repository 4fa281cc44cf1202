from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trireme_backends.errors import ModelError
from trireme_backends.generation.vllm_config import VllmConfig
from trireme_backends.model import Model


@pytest.fixture
def model(tmp_path: Path) -> Model:
    version = tmp_path / "repository/chat/1"
    version.mkdir(parents=True)
    return Model("chat", {}, version)


def write(model: Model, name: str, content: Any) -> None:
    (model.version_dir / name).write_text(content if isinstance(content, str) else json.dumps(content))


def test_arguments_are_passed_on_unchanged(model: Model) -> None:
    write(model, "model.json", {"model": "org/name", "dtype": "bfloat16", "max_model_len": 2048})
    config = VllmConfig.read(model)
    assert config.arguments == {"model": "org/name", "dtype": "bfloat16", "max_model_len": 2048}
    assert config.adapters == {}


@pytest.mark.parametrize("named", ["weights", "chat/1/weights"])
def test_weights_are_found_in_the_version_directory_and_in_the_repository(model: Model, named: str) -> None:
    (model.version_dir / "weights").mkdir()
    write(model, "model.json", {"model": named})
    assert VllmConfig.read(model).arguments["model"] == str(model.version_dir / "weights")


def test_there_is_one_more_slot_than_adapters(model: Model) -> None:
    for name in ("formal", "brief"):
        (model.version_dir / name).mkdir()
        (model.version_dir / name / "adapter_config.json").touch()
    write(model, "model.json", {"model": "org/name", "enable_lora": "true"})
    write(model, "multi_lora.json", {"formal": "formal", "brief": "brief"})
    config = VllmConfig.read(model)
    assert config.arguments["enable_lora"] is True
    assert config.arguments["max_loras"] == 3
    assert config.adapters == {name: model.version_dir / name for name in ("formal", "brief")}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"model\.json is missing"),
        ({"model.json": "{"}, r"model\.json: not JSON"),
        ({"model.json": "[]"}, r"model\.json: must be a JSON object"),
        ({"model.json": {"dtype": "auto"}}, r"'model' must be a directory or the name of a model"),
        ({"model.json": {"model": "m", "enable_lora": True}}, r"multi_lora\.json is missing"),
        (
            {"model.json": {"model": "m", "enable_lora": True}, "multi_lora.json": {"brief": "nowhere"}},
            "adapter 'brief': nowhere has no adapter_config.json",
        ),
        (
            {"model.json": {"model": "m", "enable_lora": True, "max_loras": 1}, "multi_lora.json": {"a": "adapter"}},
            "max_loras is 1 for 1 adapters; it must be at least 2",
        ),
    ],
)
def test_an_invalid_version_directory_is_rejected_with_a_message(
    model: Model, files: dict[str, Any], message: str
) -> None:
    (model.version_dir / "adapter").mkdir()
    (model.version_dir / "adapter/adapter_config.json").touch()
    for name, content in files.items():
        write(model, name, content)
    with pytest.raises(ModelError, match=message):
        VllmConfig.read(model)
