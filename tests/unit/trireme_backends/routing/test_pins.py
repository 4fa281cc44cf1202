from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from trireme_backends.routing.pins import UNKNOWN, Pin, Pins, VersionStepError, read_pin

BERT = ("bert", 3)
DECODER = ("large_decoder", 1)


def write_ensemble(
    repository: Path, name: str, steps: list[tuple[str, int]], version_step: str = "", maps: str = ""
) -> None:
    folder = repository / name
    folder.mkdir(exist_ok=True)
    listed = ", ".join(f'{{ model_name: "{model}" model_version: {version} {maps} }}' for model, version in steps)
    staged = folder / "config.new"
    parameter = f'parameters {{ key: "version_step" value {{ string_value: "{version_step}" }} }}\n'
    staged.write_text(
        f'platform: "ensemble"\nensemble_scheduling {{ step [ {listed} ] }}\n' + (parameter if version_step else "")
    )
    staged.replace(folder / "config.pbtxt")


def write_manifest(repository: Path, model: str, version: int, accuracy: float) -> None:
    folder = repository / model / str(version)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"accuracy": {"accuracy": accuracy}}))


@pytest.mark.parametrize("steps", [[BERT, DECODER], [DECODER, BERT]])
def test_the_version_is_that_of_the_step_the_configuration_names(tmp_path: Path, steps: list[tuple[str, int]]) -> None:
    write_ensemble(tmp_path, "large", steps, version_step="bert")
    assert read_pin(tmp_path / "large") == Pin("bert", "3")


def test_without_the_parameter_it_is_the_only_step_with_a_manifest_whatever_the_names(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "large", [DECODER, BERT])
    write_manifest(tmp_path, "bert", 3, 0.9)
    assert read_pin(tmp_path / "large") == Pin("bert", "3", 0.9)


def test_a_step_without_a_version_has_the_latest_version(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "large", [("bert", -1), DECODER])
    write_manifest(tmp_path, "bert", 4, 0.9)
    assert read_pin(tmp_path / "large") == Pin("bert", "4", 0.9)


@pytest.mark.parametrize(
    ("steps", "version_step", "sentence"),
    [
        ([BERT, DECODER], "encoder", "version_step names 'encoder', which is not a step; one of bert, large_decoder"),
        (
            [BERT, DECODER],
            "",
            "any of the steps bert, large_decoder could carry the version; name one, such as "
            'parameters { key: "version_step" value { string_value: "bert" } }',
        ),
        ([BERT, ("bert", 4)], "", "'bert' is called at versions 3, 4; pin its steps to one version"),
    ],
)
def test_an_unknown_version_step_is_an_error_and_never_guessed(
    tmp_path: Path, steps: list[tuple[str, int]], version_step: str, sentence: str
) -> None:
    write_ensemble(tmp_path, "large", steps, version_step)
    with pytest.raises(VersionStepError, match=f"^{re.escape(sentence)}$"):
        read_pin(tmp_path / "large")


def test_naming_the_version_step_takes_effect_at_the_next_lookup(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    write_ensemble(tmp_path, "large", [BERT])
    assert pins.pin("large").version == "3"
    write_ensemble(tmp_path, "large", [BERT, DECODER])
    assert pins.pin("large") == UNKNOWN
    write_ensemble(tmp_path, "large", [BERT, DECODER], version_step="bert")
    assert pins.pin("large").version == "3"


@pytest.mark.parametrize(
    ("steps", "maps", "whole"),
    [
        ([("engine", 3)], 'input_map { key: "a" value: "a" } output_map { key: "b" value: "b" }', True),
        ([("engine", 3)], 'input_map { key: "a" value: "prompt" }', False),
        ([("engine", -1)], "", False),
        ([("engine", 3), DECODER], "", False),
    ],
)
def test_a_pinned_step_with_the_variants_own_tensors_may_be_called_in_its_place(
    tmp_path: Path, steps: list[tuple[str, int]], maps: str, whole: bool
) -> None:
    write_manifest(tmp_path, "engine", 3, 0.9)
    write_ensemble(tmp_path, "large", steps, maps=maps)
    assert read_pin(tmp_path / "large") == Pin("engine", "3", 0.9, whole)


def test_quality_is_the_accuracy_of_the_pinned_version(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "large", [("large_encoder", 2)])
    write_manifest(tmp_path, "large_encoder", 1, 0.8)
    write_manifest(tmp_path, "large_encoder", 2, 0.9)
    assert read_pin(tmp_path / "large") == Pin("large_encoder", "2", 0.9, is_whole_variant=True)


def test_variant_that_is_not_an_ensemble_has_its_latest_version(tmp_path: Path) -> None:
    for name in ("1", "3", "10_backup", "07"):
        (tmp_path / "plain" / name).mkdir(parents=True)
    (tmp_path / "plain" / "config.pbtxt").write_text('backend: "python"')
    assert read_pin(tmp_path / "plain") == Pin("plain", "3")
    (tmp_path / "plain" / "config.pbtxt").write_text("version_policy { specific { versions: [1] } }")
    assert read_pin(tmp_path / "plain") == Pin("plain", "1")


def test_changed_pin_applies_at_the_next_lookup_and_an_invalid_file_changes_nothing(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    assert pins.pin("large") == UNKNOWN
    write_ensemble(tmp_path, "large", [("large_encoder", 1)])
    assert pins.pin("large").version == "1"
    write_ensemble(tmp_path, "large", [("large_encoder", 2)])
    assert pins.pin("large").version == "2"
    staged = tmp_path / "broken"
    staged.write_text("ensemble_scheduling {")
    staged.replace(tmp_path / "large" / "config.pbtxt")
    assert pins.pin("large").version == "2"
