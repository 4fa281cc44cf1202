from __future__ import annotations

from pathlib import Path

import pytest
from trireme.errors import ConfigError
from trireme_export.recipe import (
    GraphRecipe,
    Head,
    LanguageModelRecipe,
    Precision,
    SharedRecipe,
    TokenizerRecipe,
    read_recipe,
)

RECIPES = sorted((Path(__file__).parents[3] / "model_repository").glob("*/export.toml"))

RECIPE = """\
[source]
kind = "onnx"
package = "p"
version = "1"
sha256 = "0"
file = "model.onnx"
origin = "o"
licence = "MIT"

[tokenizer]
package = "p"
version = "1"
sha256 = "0"
file = "tokenizer.json"
origin = "o"
licence = "MIT"
max_tokens = 256

[target]
head = "sentiment"
precision = "int8"

[gates.parity]
min_cosine = 0.95

[gates.accuracy]
data = "uci_sentences"
min_accuracy = 0.8
max_drop = 0.05
max_logit_error = 3
mean_logit_error = 0.5
"""


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.parent.name)
def test_every_recipe_of_the_repository_is_read(path):
    assert isinstance(read_recipe(path), GraphRecipe | LanguageModelRecipe | SharedRecipe | TokenizerRecipe)


def test_a_whole_recipe_becomes_typed_values(tmp_path):
    recipe = read(tmp_path, RECIPE)

    assert isinstance(recipe, GraphRecipe)
    assert (recipe.target.head, recipe.target.precision) == (Head.SENTIMENT, Precision.INT8)
    assert recipe.accuracy.max_logit_error == 3.0


@pytest.mark.parametrize(
    ("old", "new", "line", "problem"),
    [
        (
            'precision = "int8"',
            'precision = "int8"\nprecission = "int8"',
            22,
            "unknown key 'target.precission'; available: 'head', 'precision'",
        ),
        ("[target]", "[targets]", 19, "unknown key 'targets'"),
        ('precision = "int8"', 'precision = "int4"', 21, "target.precision is 'int4'; it must be 'fp32' or 'int8'"),
        ("max_tokens = 256", 'max_tokens = "256"', 17, "tokenizer.max_tokens is '256'; it must be an integer"),
        ("max_tokens = 256", "max_tokens = true", 17, "tokenizer.max_tokens is True; it must be an integer"),
        ("max_tokens = 256", "max_tokens = 2", 17, "it must be greater than or equal to 3"),
        ("max_drop = 0.05", "max_drop = '5 %'", 29, "gates.accuracy.max_drop is '5 %'; it must be a number"),
        ('kind = "onnx"', 'kind = "keras"', 2, "source.kind is 'keras'; it is one of 'onnx', 'torch', 'gguf', 'model'"),
        ('kind = "onnx"\n', "", 1, "source.kind is missing; it is one of 'onnx', "),
        ('head = "sentiment"\n', "", 19, "target.head is missing"),
        ("min_cosine = 0.95\n", "", 23, "exactly one of max_abs_diff, min_cosine"),
        ("min_cosine = 0.95", "min_cosine = 0.9\nmax_abs_diff = 1.0", 23, "exactly one of max_abs_diff, min_cosine"),
        ('data = "uci_sentences"', 'data = "bbc_news"', 27, "must be 'uci_sentences' for head 'sentiment'"),
        ("mean_logit_error = 0.5\n", "", 26, "needs gates.accuracy.max_logit_error and mean_logit_error"),
        ('head = "sentiment"', 'head = "sentiment', 20, "not TOML"),
    ],
)
def test_a_fault_is_reported_with_its_file_and_line(tmp_path, old, new, line, problem):
    assert old in RECIPE
    with pytest.raises(ConfigError, match=problem) as raised:
        read(tmp_path, RECIPE.replace(old, new, 1))

    assert raised.value.line == line
    assert str(raised.value).startswith(f"{tmp_path / 'export.toml'}:{line}:")


def test_all_faults_of_a_recipe_are_reported_at_once(tmp_path):
    recipe = RECIPE.replace("max_tokens = 256", "max_tokens = true").replace("min_accuracy = 0.8", "min_accuracy = 8")

    with pytest.raises(ConfigError) as raised:
        read(tmp_path, recipe.replace("max_drop = 0.05\n", ""))

    path = tmp_path / "export.toml"
    assert str(raised.value).split("\n") == [
        f"{path}:17: tokenizer.max_tokens is True; it must be an integer",
        f"{path}:26: gates.accuracy.max_drop is missing",
        f"{path}:28: gates.accuracy.min_accuracy is 8; it must be less than or equal to 1",
    ]


def test_a_shared_graph_takes_no_gates_of_its_own(tmp_path):
    shared = '[source]\nkind = "model"\nmodel = "other"\n'

    assert isinstance(read(tmp_path, shared), SharedRecipe)
    with pytest.raises(ConfigError, match=r"unknown key 'gates\.parity'"):
        read(tmp_path, shared + "[gates.parity]\nmin_cosine = 0.9\n")


def test_a_profile_of_shapes_must_be_whole_numbers(tmp_path):
    recipe = '[source]\nkind = "model"\nmodel = "other"\n[tensorrt]\nmin_shape = [1, 1]\nopt_shape = [1, 8.5]\n'

    with pytest.raises(ConfigError, match=r":6: tensorrt.opt_shape\[1\] is 8.5; it must be an integer"):
        read(tmp_path, recipe + "max_shape = [8, 8]\n")


def read(folder: Path, text: str):
    (folder / "export.toml").write_text(text)
    return read_recipe(folder / "export.toml")
