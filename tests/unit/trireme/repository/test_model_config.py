"""Parsing of config.pbtxt: a typed config, or all errors with their places."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from trireme.errors import ConfigError
from trireme.repository.config_source import Place
from trireme.repository.model_config import ModelConfig, VersionPolicy, load_model_config, parse_model_config
from tritonclient.grpc import model_config_pb2

ENSEMBLE = """
platform: "ensemble"
max_batch_size: 64
input [ { name: "IMG" data_type: TYPE_UINT8 dims: [ -1 ] } ]
output [ { name: "TXT" data_type: TYPE_STRING dims: [ -1 ] } ]
ensemble_scheduling {
  step [
    { model_name: "prep" model_version: -1
      input_map { key: "img" value: "IMG" }
      output_map { key: "px" value: "t1" } },
    { model_name: "det" model_version: -1
      input_map { key: "images" value: "t1" }
      output_map { key: "o0" value: "t2" } },
    { model_name: "ocr" model_version: 3
      input_map [ { key: "a" value: "t2" }, { key: "b" value: "IMG" } ]
      output_map { key: "text" value: "TXT" } }
  ]
}
"""


def parse(text: str) -> ModelConfig:
    parsed = parse_model_config(text.encode(), Path("model/config.pbtxt"))
    assert parsed.config is not None, parsed.problems
    return parsed.config


def problems(data: str | bytes) -> list[tuple[int, int, str, str]]:
    raw = data.encode() if isinstance(data, str) else data
    parsed = parse_model_config(raw, Path("model/config.pbtxt"))
    assert parsed.config is None
    return [(error.place.line, error.place.column, error.problem, error.fix) for error in parsed.problems]


def test_maps_are_parsed_from_lists_and_blocks() -> None:
    config = parse(ENSEMBLE)
    assert [(step.model, step.version) for step in config.steps] == [("prep", -1), ("det", -1), ("ocr", 3)]
    assert config.steps[2].inputs == {"a": "t2", "b": "IMG"}
    assert [step.model for step in config.steps if "IMG" in step.inputs.values()] == ["prep", "ocr"]


def test_a_config_survives_a_text_round_trip() -> None:
    config = parse(ENSEMBLE)
    assert parse(text_format.MessageToString(config.message)).steps == config.steps


def test_tensors_have_protocol_datatypes_and_backend_dims() -> None:
    config = parse(
        'input { name: "A" data_type: TYPE_STRING dims: 1 reshape { } optional: true }'
        'output { name: "B" data_type: TYPE_FP32 dims: [ 2, -1 ] }'
    )
    (first,), (second,) = config.inputs, config.outputs
    assert (first.datatype, first.dims, first.backend_dims) == ("BYTES", (1,), ())
    assert first.optional
    assert (second.datatype, second.dims, second.backend_dims) == ("FP32", (2, -1), (2, -1))


@pytest.mark.parametrize(
    ("text", "backend"),
    [
        ('backend: "onnxruntime"', "onnxruntime"),
        ('platform: "onnxruntime_onnx"', "onnxruntime"),
        ('platform: "tensorrt_plan"', "tensorrt"),
        ('default_model_filename: "model.py"', "python"),
        ('platform: "ensemble"', "ensemble"),
        ('platform: "python"', ""),
    ],
)
def test_the_backend_is_completed_as_triton_does(text: str, backend: str) -> None:
    assert parse(text).backend == backend


def test_the_folder_names_the_model_if_the_file_does_not() -> None:
    assert parse("").name == "model"
    assert parse("name: 'other'").name == "other"


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("", [10]),
        ("version_policy { latest { num_versions: 2 } }", [2, 10]),
        ("version_policy { all { } }", [1, 2, 10]),
        ("version_policy { specific { versions: [ 1, 5 ] } }", [1]),
    ],
)
def test_the_version_policy_selects_what_triton_loads(text: str, selected: list[int]) -> None:
    assert parse(text).version_policy.selects([10, 1, 2]) == selected


def test_a_latest_policy_may_exceed_the_number_of_versions() -> None:
    assert VersionPolicy(latest=5).selects([2, 1]) == [1, 2]


def test_parameters_and_groups_are_plain_values() -> None:
    config = parse(
        'parameters { key: "a" value { string_value: "4" } }'
        "instance_group [ { kind: KIND_GPU count: 2 gpus: [ 0, 1 ] }, { } ]"
    )
    assert config.parameters == {"a": "4"}
    assert [(group.kind, group.count, group.gpus) for group in config.instance_groups] == [
        ("GPU", 2, (0, 1)),
        ("AUTO", 0, ()),
    ]


@pytest.mark.parametrize(
    ("text", "line", "column", "problem", "fix"),
    [
        ('backend: "x"\ninputs [ { name: "X" } ]', 2, 1, "'inputs'", "'input'"),
        ("outputs [ ]", 1, 1, "'outputs'", "'output'"),
        ("input [ { dim: [ -1 ] } ]", 1, 11, "'dim'", "'dims'"),
        ("input [ {\n data_type: FP32 } ]", 2, 13, "'FP32'", "TYPE_FP32"),
        ("input [ { data_type: TYPE_FLOAT32 } ]", 1, 22, "'TYPE_FLOAT32'", "TYPE_"),
        ("input { data_type: 99 }", 1, 20, "'99'", "TYPE_BOOL"),
        ("instance_group { kind: GPU }", 1, 24, "'GPU'", "KIND_GPU"),
        ("output [ { name } ]", 1, 17, "'name'", "name: value"),
        ('// note\nname: "x"', 1, 1, "'/'", "#"),
        ("input [ { dims: [ 3\uff0c4 ] } ]", 1, 20, "\uff0c", "ASCII"),
        ('\ufeffname: "x"', 1, 1, "ufeff", "byte-order mark"),
        ('parameters { key: "a" value: "4" }', 1, 30, "'value'", 'string_value: "4"'),
        ("name: 3", 1, 7, "'name'", '"3"'),
        ('max_batch_size: "8"', 1, 17, "'max_batch_size'", "without quotes"),
        ("max_batch_size: many", 1, 17, "many", ""),
        ("max_batch_size: 99999999999", 1, 17, "out of range", ""),
        ('name: "x', 1, 7, "'name'", "quote"),
        ('name: "x"\nname: "y"', 2, 1, "'name' is set twice", "remove one"),
        ("version_policy { all { } latest { } }", 1, 26, "'latest'", "remove one"),
        ('name: "x" }', 1, 11, "'}'", "brackets"),
        ('input { name: "x"', 1, 18, "the end", "brackets"),
        ("model_metrics { }", 1, 1, "not supported by this Triton version", "remove"),
    ],
)
def test_a_syntax_error_has_place_problem_and_fix(text: str, line: int, column: int, problem: str, fix: str) -> None:
    (error,) = problems(text)
    assert error[:2] == (line, column)
    assert problem in error[2]
    assert fix in error[3]


def test_an_accelerators_parameter_is_a_plain_string() -> None:
    (error,) = problems(
        'optimization { execution_accelerators { cpu_execution_accelerator [ { name: "x"\n'
        'parameters { key: "a" value: { string_value: "b" } } } ] } }'
    )
    assert error[:3] == (2, 30, "'value' is a plain string, not a block")


def test_two_pairs_in_one_map_block_are_errors() -> None:
    errors = problems('parameters { key: "a" value { } key: "b" value { } }')
    assert [error[:2] for error in errors] == [(1, 33), (1, 42)]
    assert all("one block for each key" in error[3] for error in errors)


def test_one_run_reports_all_errors() -> None:
    errors = problems("inputs [ { dim: 1 } ]\noutput [ { data_type: INT8 dim: 3 } ]\nbackends: 'x'")
    assert [error[0] for error in errors] == [1, 2, 2, 3]


def test_nesting_is_limited() -> None:
    assert "nested blocks" in problems("a { " * 5000)[-1][2]


def test_bytes_that_are_not_utf8_have_a_place() -> None:
    assert problems(b'backend: "x"\nname: "\xff"')[0][:3] == (2, 8, "not UTF-8 text")


@pytest.mark.parametrize(
    "text",
    ["name: 'a'; max_batch_size: 3,", "input { data_type: 11 }", "response_cache { enable: True }  # why", "input <>"],
)
def test_text_that_protobuf_accepts_is_accepted(text: str) -> None:
    assert text_format.Parse(text, model_config_pb2.ModelConfig()) == parse(text).message


def test_a_field_has_a_place() -> None:
    config = parse('backend: "x"\ninput [\n  { name: "A" dims: 1 },\n  { name: "B" dims: 2 }\n]\n')
    assert config.place("backend") == Place(1, 1)
    assert config.place("input", 1, "dims") == Place(4, 15)
    assert config.place("input", "A", "dims") == Place(3, 15)
    assert config.place("input", "B", "reshape") == Place(4, 3)
    assert config.place("output", 0) == Place(1, 1)


def test_loading_raises_the_first_error(tmp_path: Path) -> None:
    path = tmp_path / "config.pbtxt"
    path.write_text("inputs [ ]\noutputs [ ]")
    with pytest.raises(ConfigError, match=r"config\.pbtxt:1:1: unknown field 'inputs'; write 'input'"):
        load_model_config(path)
