from __future__ import annotations

import json
from pathlib import Path

import pytest
from trireme.repository.folders import ModelRepository
from trireme.repository.loading import plan_loading, variants_not_loaded
from trireme.repository.manifest import Manifest, record_files, write_manifest

PLAIN = 'backend: "text_encoder"\n'


def add_model(repository: Path, name: str, config: str = PLAIN, *, version: int = 1) -> Path:
    directory = repository / name / str(version)
    directory.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    return directory


def ensemble_of(*steps: tuple[str, int]) -> str:
    listed = ", ".join(f'{{ model_name: "{model}" model_version: {version} }}' for model, version in steps)
    return f'platform: "ensemble"\nensemble_scheduling {{ step [ {listed} ] }}\n'


def export(directory: Path) -> None:
    (directory / "model.onnx").write_bytes(b"weights")
    write_manifest(Manifest("", "", (), record_files([directory / "model.onnx"])), directory)


def test_complete_models_are_loaded(tmp_path: Path) -> None:
    add_model(tmp_path, "encoder")
    add_model(tmp_path, "variant", ensemble_of(("encoder", 1)))
    plan = plan_loading(ModelRepository(tmp_path))
    assert (plan.models, plan.left_out, plan.broken) == (("encoder", "variant"), {}, {})


def test_model_with_a_recipe_and_no_manifest_is_not_exported(tmp_path: Path) -> None:
    directory = add_model(tmp_path, "encoder")
    (tmp_path / "encoder" / "export.toml").touch()
    plan = plan_loading(ModelRepository(tmp_path))
    assert plan.models == ()
    assert plan.left_out == {"encoder": f"{directory} is not exported; run: trireme export encoder"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "model.onnx is missing; run: trireme export encoder"),
        (lambda path: path.write_bytes(b"wei"), "model.onnx has 3 bytes, its manifest records 7; run: trireme export"),
    ],
    ids=["missing", "truncated"],
)
def test_missing_or_truncated_weights_are_reported(tmp_path: Path, damage: object, message: str) -> None:
    directory = add_model(tmp_path, "encoder")
    (tmp_path / "encoder" / "export.toml").touch()
    export(directory)
    assert plan_loading(ModelRepository(tmp_path)).models == ("encoder",)
    assert callable(damage)
    damage(directory / "model.onnx")
    assert message in plan_loading(ModelRepository(tmp_path)).left_out["encoder"]


def test_truncated_manifest_is_reported_with_the_export_command(tmp_path: Path) -> None:
    directory = add_model(tmp_path, "encoder")
    (tmp_path / "encoder" / "export.toml").touch()
    export(directory)
    manifest = directory / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:40])
    plan = plan_loading(ModelRepository(tmp_path))
    assert plan.broken == {}
    assert f"{manifest}" in plan.left_out["encoder"]
    assert plan.left_out["encoder"].endswith("; run: trireme export encoder")


def test_python_model_without_model_py_is_skipped_because_its_load_would_hang(tmp_path: Path) -> None:
    add_model(tmp_path, "plain", 'backend: "python"\n')
    assert "model.py is missing" in plan_loading(ModelRepository(tmp_path)).left_out["plain"]


def test_missing_warmup_file_is_reported(tmp_path: Path) -> None:
    warmup = 'model_warmup { name: "w" batch_size: 1 inputs { key: "T" value { input_data_file: "w.T" } } }\n'
    add_model(tmp_path, "encoder", PLAIN + warmup)
    assert "w.T is missing" in plan_loading(ModelRepository(tmp_path)).left_out["encoder"]


def test_ensembles_of_an_incomplete_ensemble_are_skipped(tmp_path: Path) -> None:
    add_model(tmp_path, "encoder", 'backend: "python"\n')
    add_model(tmp_path, "inner", ensemble_of(("encoder", 1)))
    add_model(tmp_path, "a_outer", ensemble_of(("inner", -1)))
    left_out = plan_loading(ModelRepository(tmp_path)).left_out
    assert left_out["inner"] == "its step encoder cannot be loaded"
    assert left_out["a_outer"] == "its step inner cannot be loaded"


def test_ensemble_pinned_to_a_missing_version_is_skipped(tmp_path: Path) -> None:
    add_model(tmp_path, "encoder")
    add_model(tmp_path, "variant", ensemble_of(("encoder", 2)))
    add_model(tmp_path, "other", ensemble_of(("nowhere", 1)))
    plan = plan_loading(ModelRepository(tmp_path))
    assert plan.models == ("encoder",)
    assert plan.left_out["variant"] == "its step encoder has no version 2"
    assert plan.left_out["other"] == "its step nowhere is not in the repository"


def test_variants_of_a_route_that_are_not_loaded_are_listed(tmp_path: Path) -> None:
    directory = add_model(tmp_path, "task", 'backend: "router"\n')
    variants = [
        {"name": f"task_{tier}", "tier": tier, "cost_per_1000": 1, "expected_latency_ms": 1}
        for tier in ("economy", "standard", "premium")
    ]
    document = {"task": "task", "default_tier": "economy", "variants": variants}
    (directory / "route.json").write_text(json.dumps(document))
    route = ModelRepository(tmp_path).model("task")
    assert variants_not_loaded(route, ["task", "task_standard"]) == ["task_economy", "task_premium"]
    assert variants_not_loaded(route, ["task", "task_economy", "task_standard", "task_premium"]) == []
    add_model(tmp_path, "encoder")
    assert variants_not_loaded(ModelRepository(tmp_path).model("encoder"), []) == []


def test_config_that_does_not_parse_is_broken_and_reported_with_its_line(tmp_path: Path) -> None:
    add_model(tmp_path, "encoder", "max_batch_size: 8\ninputs [ ]\n")
    plan = plan_loading(ModelRepository(tmp_path))
    assert plan.models == ()
    assert "config.pbtxt:2:1" in plan.broken["encoder"]
