from __future__ import annotations

import json
from pathlib import Path

import pytest
from trireme_backends.routing.pins import UNKNOWN, Pin, Pins, read_pin

DECODER = ("sentiment_label_decoder", 1)
ENCODER_3 = ("sentiment_premium_encoder", 3)


def write_ensemble(repository: Path, name: str, steps: list[tuple[str, int]]) -> None:
    folder = repository / name
    folder.mkdir(exist_ok=True)
    told = ", ".join(f'{{ model_name: "{model}" model_version: {version} }}' for model, version in steps)
    staged = folder / "config.new"
    staged.write_text(f'platform: "ensemble"\nensemble_scheduling {{ step [ {told} ] }}\n')
    staged.replace(folder / "config.pbtxt")


def write_manifest(repository: Path, model: str, version: int, accuracy: float) -> None:
    folder = repository / model / str(version)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"accuracy": {"accuracy": accuracy}}))


@pytest.mark.parametrize(
    ("variant", "steps", "model", "version"),
    [
        ("sentiment_premium", [ENCODER_3, DECODER], "encoder", "3"),
        ("sentiment_premium", [DECODER, ENCODER_3], "encoder", "3"),
        (
            "sentiment_premium__canary",
            [("sentiment_premium_encoder", 4), DECODER],
            "encoder",
            "4",
        ),
        ("sentiment_premium_staged", [("minilm_tokenizer", 1), ("sentiment_premium_onnx", 2)], "onnx", "2"),
    ],
)
def test_pin_is_the_step_that_does_the_variants_work(
    tmp_path: Path, variant: str, steps: list[tuple[str, int]], model: str, version: str
) -> None:
    write_ensemble(tmp_path, variant, steps)
    assert read_pin(tmp_path / variant) == Pin(f"sentiment_premium_{model}", version)


def test_quality_is_the_accuracy_of_the_pinned_version(tmp_path: Path) -> None:
    write_ensemble(tmp_path, "large", [("large_encoder", 2)])
    write_manifest(tmp_path, "large_encoder", 1, 0.8)
    write_manifest(tmp_path, "large_encoder", 2, 0.9)
    assert read_pin(tmp_path / "large") == Pin("large_encoder", "2", 0.9)


def test_variant_that_is_no_ensemble_has_its_newest_version(tmp_path: Path) -> None:
    for name in ("1", "3", "10_backup", "07"):
        (tmp_path / "plain" / name).mkdir(parents=True)
    (tmp_path / "plain" / "config.pbtxt").write_text('backend: "python"')
    assert read_pin(tmp_path / "plain") == Pin("plain", "3")
    (tmp_path / "plain" / "config.pbtxt").write_text("version_policy { specific { versions: [1] } }")
    assert read_pin(tmp_path / "plain") == Pin("plain", "1")


def test_changed_pin_is_seen_at_the_next_look_and_a_broken_file_changes_nothing(tmp_path: Path) -> None:
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
