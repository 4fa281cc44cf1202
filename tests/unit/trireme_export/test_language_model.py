from __future__ import annotations

import json
from pathlib import Path

import pytest
from trireme.errors import ConfigError, GateError
from trireme.repository.manifest import Manifest, Perplexity, read_manifest, write_manifest
from trireme_export.language_model import check_perplexity, write_engine_file
from trireme_export.recipe import LanguageModelRecipe, PerplexityGate, read_recipe

RECIPE = """\
[source]
kind = "gguf"
package = "p"
version = "1"
sha256 = "0"
file = "model.gguf"
origin = "o"
licence = "MIT"

[engine]
max_model_len = 512
speculative_config = { method = "ngram" }

[gates.perplexity]
max_perplexity = 25.0
"""


def read(directory: Path, text: str) -> LanguageModelRecipe:
    path = directory / "export.toml"
    path.write_text(text)
    recipe = read_recipe(path)
    assert isinstance(recipe, LanguageModelRecipe)
    return recipe


def test_engine_section_is_written_to_model_json(tmp_path):
    recipe = read(tmp_path, RECIPE)
    settings = write_engine_file(tmp_path, recipe.engine, tmp_path / "export.toml")
    assert settings.max_model_len == 512
    written = json.loads((tmp_path / "model.json").read_text())
    assert written == {"model": "model.gguf", "max_model_len": 512, "speculative_config": {"method": "ngram"}}


def test_a_key_that_the_engine_lacks_is_reported_with_the_recipe(tmp_path):
    recipe = read(tmp_path, RECIPE.replace("[engine]", "[engine]\nenable_lora = true"))
    with pytest.raises(ConfigError, match=r"export.toml: enable_lora: unknown key"):
        write_engine_file(tmp_path, recipe.engine, tmp_path / "export.toml")
    assert not (tmp_path / "model.json").exists()


@pytest.mark.parametrize("section", ["[engine]", "[gates.perplexity]"])
def test_a_recipe_without_a_section_is_rejected(tmp_path, section):
    begin = RECIPE.index(section)
    end = RECIPE.find("\n\n", begin) if "\n\n" in RECIPE[begin:] else len(RECIPE)
    with pytest.raises(ConfigError, match="missing"):
        read(tmp_path, RECIPE[:begin] + RECIPE[end:])


def test_perplexity_above_the_gate_fails_with_both_numbers():
    check_perplexity(Perplexity(24.9, 249, "e"), PerplexityGate(25.0), "m")
    for measured in (25.1, float("nan")):
        with pytest.raises(GateError, match="25"):
            check_perplexity(Perplexity(measured, 249, "e"), PerplexityGate(25.0), "m")


def test_perplexity_is_in_the_manifest(tmp_path):
    manifest = Manifest("0", "1", (), {}, perplexity=Perplexity(21.8, 249, "e"))
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path) == manifest
