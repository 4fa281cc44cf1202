"""``bench llm`` finds the weights that a model is served from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trireme.repository.folders import ModelRepository
from trireme_loadtest.bench.llm import find_engines

REPOSITORY = Path(__file__).parents[4] / "model_repository"


@pytest.mark.parametrize(
    ("name", "model", "weights"),
    [
        # As NVIDIA's vLLM backend resolves it: below the repository.
        ("generation_premium_engine", "generation_premium_engine/1", "generation_premium_engine/1"),
        ("generation_economy_engine", "model.gguf", "generation_economy_engine/1/model.gguf"),
    ],
)
def test_the_engine_alone_loads_what_the_server_loads(tmp_path: Path, name: str, model: str, weights: str) -> None:
    folder = tmp_path / name
    (folder / "1").mkdir(parents=True)
    config = (REPOSITORY / name / "config.pbtxt").read_text()
    (folder / "config.pbtxt").write_text(config)
    (folder / "1" / "model.json").write_text(json.dumps({"model": model}))
    (folder / "1" / "model.gguf").touch()
    (served,), skipped = find_engines(ModelRepository(tmp_path))
    assert skipped == []
    assert served.weights == (tmp_path / weights).resolve()
