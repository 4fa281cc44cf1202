"""What lint checks, the order of its findings, and its documentation."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import TensorProto, helper
from trireme.cli import main
from trireme.errors import TriremeError
from trireme.lint import Severity, lint
from trireme.lint.rules import ALL_RULES
from trireme.lint.subject import rule_name
from trireme.processes.machine import Machine
from trireme.repository.config_source import Place
from trireme.settings import Settings

CPU = Machine(cores=2, gpus=0)
DOCUMENTATION = Path(__file__).parents[4] / "docs" / "lint.md"
TENSORS = """
input [ { name: "X" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "Y" data_type: TYPE_FP32 dims: [ 4 ] } ]
"""
MAPS = 'input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" }'


def model(repository: Path, name: str, config: str, *versions: int) -> Path:
    folder = repository / name
    for version in versions or (1,):
        (folder / str(version)).mkdir(parents=True)
    (folder / "config.pbtxt").write_text(config)
    return folder


def rules(path: Path, severity: Severity = Severity.ERROR, machine: Machine = CPU) -> list[str]:
    return [finding.rule for finding in lint(path, machine).of(severity)]


def test_one_run_reports_all_errors_of_a_repository(tmp_path: Path) -> None:
    model(tmp_path, "one", 'backend: "x" max_batch_size: -1 inputs [ ]')
    model(tmp_path, "two", 'backend: "x" max_batch_size: -1 dynamic_batching { preferred_batch_size: 8 }')
    model(tmp_path, "valid", 'backend: "x"')
    report = lint(tmp_path, CPU)
    assert report.models == ("one", "two", "valid")
    assert [(finding.model, finding.rule) for finding in report.findings] == [
        ("one", "config-parses"),
        ("two", "max-batch-size-is-not-negative"),
        ("two", "preferred-batches-fit"),
    ]


def test_a_model_folder_is_checked_against_its_neighbours(tmp_path: Path) -> None:
    step = 'input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" }'
    config = (
        f'platform: "ensemble" {TENSORS} ensemble_scheduling {{ step {{ model_name: "net" model_version: 1 {step} }} }}'
    )
    folder = model(tmp_path, "pipe", config)
    assert rules(folder) == ["called-models-exist"]
    model(tmp_path, "net", f'backend: "x" {TENSORS}')
    model(tmp_path, "unrelated", "nonsense")
    assert rules(folder) == []


def test_a_config_file_is_checked_without_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "any.pbtxt"
    path.write_text('name: "other" backend: "x" input [ { name: "X" dims: 0 data_type: TYPE_FP32 } ]')
    (finding,) = lint(path, CPU).findings
    assert (finding.rule, finding.place) == ("dims-are-positive-or-variable", Place(1, 48))


def test_a_folder_without_models_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(TriremeError, match=r"no subfolder has a config\.pbtxt"):
        lint(tmp_path, CPU)


def test_a_folder_without_a_config_is_a_warning(tmp_path: Path) -> None:
    model(tmp_path, "valid", 'backend: "x"')
    (tmp_path / "scratch").mkdir()
    (tmp_path / ".git").mkdir()
    (finding,) = lint(tmp_path, CPU).findings
    assert (finding.rule, finding.severity, finding.path.name) == ("config-is-there", Severity.WARNING, "scratch")


def test_a_gpu_model_passes_on_a_machine_with_enough_gpus(tmp_path: Path) -> None:
    folder = model(tmp_path, "net", 'backend: "x" instance_group { kind: KIND_GPU gpus: [ 1 ] }')
    assert rules(folder, machine=Machine(cores=2, gpus=0)) == ["devices-are-present"]
    assert rules(folder, machine=Machine(cores=2, gpus=1)) == ["devices-are-present"]
    assert rules(folder, machine=Machine(cores=2, gpus=2)) == []


def test_more_threads_than_cores_are_a_warning(tmp_path: Path) -> None:
    threads = 'parameters { key: "thread_count" value { string_value: "1" } }'
    config = f'backend: "text_encoder" instance_group {{ count: 4 }} {threads}'
    folder = model(tmp_path, "net", config)
    assert rules(folder, Severity.WARNING) == ["threads-fit-the-cores"]
    assert rules(folder, Severity.WARNING, Machine(cores=4, gpus=0)) == []


@pytest.mark.parametrize(
    ("backend", "files"),
    [
        ("text_encoder", ("model.onnx", "tokenizer.json")),
        ("text_tokenizer", ("tokenizer.json",)),
        ("label_decoder", ("labels.json",)),
        ("router", ("route.json",)),
    ],
)
def test_missing_files_of_the_projects_backends_are_errors(
    tmp_path: Path, backend: str, files: tuple[str, ...]
) -> None:
    folder = model(tmp_path, "net", f'backend: "{backend}"')
    (folder / "export.toml").touch()
    errors = [finding for finding in lint(folder, CPU).of(Severity.ERROR) if finding.rule == "model-file-is-there"]
    assert [finding.path.name for finding in errors] == list(files)
    assert {finding.fix for finding in errors} == {"run trireme export net"}
    for name in files:
        (folder / "1" / name).touch()
    assert "model-file-is-there" not in rules(folder)


def test_a_resource_that_is_global_in_one_model_only_is_a_warning(tmp_path: Path) -> None:
    group = 'instance_group {{ rate_limiter {{ resources {{ name: "slots" count: 1 global: {} }} }} }}'
    model(tmp_path, "one", 'backend: "x"' + group.format("true"))
    folder = model(tmp_path, "two", 'backend: "x"' + group.format("false"))
    assert rules(folder, Severity.WARNING) == ["resources-are-consistent"]


def test_ensembles_that_call_each_other_are_reported_with_the_cycle(tmp_path: Path) -> None:
    for name, other in (("one", "two"), ("two", "one")):
        step = f'model_name: "{other}" model_version: 1 {MAPS}'
        model(tmp_path, name, f'platform: "ensemble" {TENSORS} ensemble_scheduling {{ step {{ {step} }} }}')
    errors = lint(tmp_path, CPU).of(Severity.ERROR)
    assert [finding.rule for finding in errors] == ["models-do-not-call-themselves"] * 2
    assert "one -> two -> one" in errors[0].problem


def route(repository: Path, name: str, *variants: str) -> Path:
    """A router with ``variants`` in the tier economy, ``net`` in standard and ``net2`` in premium."""
    names = [*((variant, "economy") for variant in variants), ("net", "standard"), ("net2", "premium")]
    entries = [{"name": n, "tier": tier, "cost_per_1000": 1, "expected_latency_ms": 1} for n, tier in names]
    for plain in ("net", "net2"):
        if not (repository / plain).exists():
            model(repository, plain, f'backend: "x" {TENSORS}')
    folder = model(repository, name, f'backend: "router" {TENSORS}')
    document = {"task": name, "default_tier": "economy", "variants": entries}
    (folder / "1" / "route.json").write_text(json.dumps(document))
    return folder


def test_a_route_and_an_ensemble_that_call_each_other_are_reported(tmp_path: Path) -> None:
    folder = route(tmp_path, "task", "pipe")
    step = f'model_name: "task" model_version: 1 {MAPS}'
    model(tmp_path, "pipe", f'platform: "ensemble" {TENSORS} ensemble_scheduling {{ step {{ {step} }} }}')
    (finding,) = lint(folder, CPU).of(Severity.ERROR)
    assert finding.path.name == "route.json"
    assert "task -> pipe -> task" in finding.problem


def test_a_route_to_a_missing_model_is_a_warning(tmp_path: Path) -> None:
    assert rules(route(tmp_path, "task", "gone"), Severity.WARNING) == ["routed-variants-exist"]


def test_a_variant_with_different_tensors_is_an_error(tmp_path: Path) -> None:
    model(tmp_path, "odd", 'backend: "x" ' + TENSORS.replace("TYPE_FP32", "TYPE_INT64"))
    assert rules(route(tmp_path, "task", "odd")) == ["routed-variants-fit"] * 2


def test_a_route_file_is_checked_as_by_the_router_backend(tmp_path: Path) -> None:
    folder = route(tmp_path, "task", "net3")
    (folder / "1" / "route.json").write_text('{"tasks": "x"}')
    (finding,) = lint(folder, CPU).of(Severity.ERROR)
    assert (finding.rule, finding.problem.split(":")[0]) == ("route-file-is-well-formed", "tasks")


def test_a_model_that_is_not_exported_yet_is_a_warning(tmp_path: Path) -> None:
    folder = model(tmp_path, "net", 'backend: "x"')
    (folder / "1").rmdir()
    assert rules(folder) == ["a-version-is-there"]
    (folder / "export.toml").write_text("")
    assert rules(folder) == []
    assert rules(folder, Severity.WARNING) == ["a-version-is-there"]


def onnx_model(folder: Path, *, opset: int = 17, length: int = 16) -> None:
    weights = helper.make_tensor("W", TensorProto.FLOAT, [4], bytes(16), raw=True)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "weights.bin"), ("offset", "0"), ("length", str(length))):
        weights.external_data.add(key=key, value=value)
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["b", 4]) for name in ("X", "Y")]
    graph = helper.make_graph([helper.make_node("Add", ["X", "W"], ["Y"])], "net", info[:1], info[1:], [weights])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    (folder / "1" / "model.onnx").write_bytes(made.SerializeToString())


def test_missing_or_short_external_weights_are_errors(tmp_path: Path) -> None:
    folder = model(tmp_path, "net", f'backend: "onnxruntime" max_batch_size: 4 {TENSORS}')
    onnx_model(folder)
    assert "external-data-is-there" in rules(folder)
    (folder / "1" / "weights.bin").write_bytes(bytes(8))
    assert "external-data-is-there" in rules(folder)
    (folder / "1" / "weights.bin").write_bytes(bytes(16))
    assert "external-data-is-there" not in rules(folder)


def test_an_onnx_model_newer_than_ngcs_runtime_is_a_warning(tmp_path: Path) -> None:
    folder = model(tmp_path, "net", f'backend: "text_encoder" max_batch_size: 4 {TENSORS}')
    (folder / "1" / "weights.bin").write_bytes(bytes(16))
    onnx_model(folder, opset=23)
    assert "onnx-is-not-newer-than-ngc" in rules(folder, Severity.WARNING)


@pytest.mark.parametrize(
    ("plan", "problem"),
    [
        (b"ftrt" + bytes(20) + bytes([10, 5, 0, 18]) + bytes(100), ""),
        (b"ftrt" + bytes(20) + bytes([8, 6, 1, 6]) + bytes(100), "TensorRT 8.6.1.6"),
        (b"PK\x03\x04" + bytes(100), "not a TensorRT plan"),
        (b"", "not a TensorRT plan"),
    ],
)
def test_the_version_of_a_tensorrt_plan_is_checked(tmp_path: Path, plan: bytes, problem: str) -> None:
    folder = model(tmp_path, "net", f'platform: "tensorrt_plan" max_batch_size: 4 {TENSORS}')
    (folder / "1" / "model.plan").write_bytes(plan)
    report = lint(folder, CPU)
    assert [finding.rule for finding in report.of(Severity.NGC_ONLY)] == ["backend-is-in-the-embedded-server"]
    warnings = [finding.problem for finding in report.of(Severity.WARNING)]
    assert len(warnings) == bool(problem)
    assert all(problem in warning for warning in warnings)


def test_sequence_state_is_valid_on_ngc_only(tmp_path: Path) -> None:
    state = 'state [ { input_name: "off" output_name: "r_off" data_type: TYPE_INT64 dims: [ 1 ] } ]'
    path = tmp_path / "config.pbtxt"
    path.write_text(f'backend: "onnxruntime" max_batch_size: 8 {TENSORS} sequence_batching {{ {state} }}')
    (finding,) = lint(path, CPU).of(Severity.NGC_ONLY)
    assert "sequence_batching.state" in finding.problem
    assert "valid on NGC" in str(finding)


def test_findings_show_paths_as_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model(tmp_path, "net", "inputs [ ]")
    monkeypatch.chdir(tmp_path)
    for given in (Path("net"), Path("net/config.pbtxt")):
        (finding,) = lint(given, CPU).findings
        assert (finding.path, finding.model) == (Path("net/config.pbtxt"), "net")
    assert lint(Path(), CPU).models == ("net",)


def test_the_projects_repository_has_no_errors() -> None:
    assert lint(Settings.from_environment().repository_dir, CPU).of(Severity.ERROR) == []


def test_the_command_prints_places_and_exits_1_on_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model(tmp_path, "net", 'backend: "x"\nmax_batch_size: -1')
    assert main(["lint", str(folder)]) == 1
    assert f"{folder}/config.pbtxt:2:1: error: max_batch_size is -1" in capsys.readouterr().out
    (folder / "config.pbtxt").write_text('backend: "x"')
    assert main(["lint", str(tmp_path)]) == 0
    assert "1 models: 0 error" in capsys.readouterr().out


def test_a_broken_golden_sample_is_an_error_with_its_file_and_field(tmp_path: Path) -> None:
    folder = model(tmp_path, "net", 'backend: "x"')
    (folder / "golden").mkdir()
    sample = '{"request": {"inputs": [%s]}, "response": {"outputs": []}}'
    (folder / "golden" / "fine.json").write_text(sample % "")
    broken = '{"name": "X", "datatype": "FP32", "shape": [2], "data": [1]}'
    (folder / "golden" / "broken.json").write_text(sample % broken)
    (finding,) = lint(folder, CPU).of(Severity.ERROR)
    assert (finding.rule, finding.path) == ("golden-samples-are-readable", folder / "golden" / "broken.json")
    assert "golden/broken.json: request.inputs[0]: data of X has 1 values" in finding.problem


def test_the_command_prints_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = model(tmp_path, "net", "inputs [ ]")
    assert main(["lint", "--json", str(folder)]) == 1
    report = json.loads(capsys.readouterr().out)
    (finding,) = report["findings"]
    assert not report["passed"]
    assert (finding["line"], finding["column"], finding["rule"]) == (1, 1, "config-parses")


def test_a_path_that_does_not_exist_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "no/such/path"]) == 2
    assert "no/such/path" in capsys.readouterr().err


def test_the_documentation_lists_every_rule_with_its_docstring() -> None:
    text = DOCUMENTATION.read_text()
    for rule in ALL_RULES:
        requirement = str(rule.__doc__).splitlines()[0].replace("``", "`")
        assert f"| `{rule_name(rule)}` | {requirement} |" in text
    assert text.count("\n| `") - 3 - 2 == len(ALL_RULES)  # without the three severities and the two rules of the runner
