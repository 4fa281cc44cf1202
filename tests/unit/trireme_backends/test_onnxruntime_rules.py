"""Configurations that the onnxruntime backend rejects."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf import json_format, text_format
from trireme_backends.onnxruntime_rules import boolean, embedded_problems, embedded_warnings, problems
from tritonclient.grpc import model_config_pb2


def config(text: str) -> dict[str, Any]:
    """The JSON form of a ``config.pbtxt``."""
    message = text_format.Parse(text, model_config_pb2.ModelConfig())
    found: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}'


def gpu_accelerator(name: str, **parameters: str) -> str:
    given = " ".join(f'parameters {{ key: "{key}" value: "{value}" }}' for key, value in parameters.items())
    return f'optimization {{ execution_accelerators {{ gpu_execution_accelerator [ {{ name: "{name}" {given} }} ] }} }}'


ON_CPU, ON_GPU = "instance_group [ { kind: KIND_CPU } ]", "instance_group [ { kind: KIND_GPU } ]"
OPENVINO = 'optimization { execution_accelerators { cpu_execution_accelerator { name: "openvino" } } }'


@pytest.mark.parametrize(
    "text",
    [
        "",
        'platform: "onnxruntime_onnx"',
        parameter("intra_op_thread_count", "2")
        + parameter("execution_mode", "1")
        + parameter("enable_mem_arena", "off"),
        parameter("task", "anything"),
        OPENVINO,
        gpu_accelerator("tensorrt", precision_mode="fp16", made_up="1") + ON_CPU,
        gpu_accelerator("tensorrt", precision_mode="FP16", trt_engine_cache_enable="true") + ON_GPU,
        gpu_accelerator("cuda", cudnn_conv_use_max_workspace="0") + ON_GPU,
        'input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] optional: true } ]',
    ],
)
def test_configurations_that_the_native_backend_accepts_are_accepted(text: str) -> None:
    assert problems(config(text)) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('platform: "tensorrt_plan"', "platform 'tensorrt_plan'"),
        (parameter("intra_op_thread_count", "two"), "intra_op_thread_count is 'two'; it must be an integer"),
        (parameter("execution_mode", "2"), "execution_mode is '2'; it must be 0 (sequential) or 1 (parallel)"),
        (parameter("enable_mem_pattern", "yes"), "enable_mem_pattern is 'yes'; it must be 1 or 0"),
        (OPENVINO.replace("openvino", "vulkan"), "cpu_execution_accelerator 'vulkan' is unknown"),
        (
            gpu_accelerator("tensorrt", precision_mode="fp16") + ON_GPU,
            "precision_mode is 'fp16'; it must be FP32, FP16 or INT8",
        ),
        (gpu_accelerator("tensorrt", made_up="1") + ON_GPU, "has no parameter 'made_up'"),
        (gpu_accelerator("tensorrt", made_up="1"), "has no parameter 'made_up'"),
        (gpu_accelerator("rocm") + ON_GPU, "gpu_execution_accelerator 'rocm' is unknown"),
        (
            'max_batch_size: 2 input [ { name: "x" data_type: TYPE_FP32 dims: [ 1 ] optional: true } ]',
            "input 'x' is optional, but the model batches",
        ),
        (
            'input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] optional: true allow_ragged_batch: true } ]',
            "input 'x' is both optional and ragged",
        ),
    ],
)
def test_configurations_that_the_native_backend_rejects_are_rejected_by_name(text: str, words: str) -> None:
    (problem,) = problems(config(text))
    assert words in problem


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            'sequence_batching { state { input_name: "off" output_name: "r_off" data_type: TYPE_INT64 dims: 1 } }',
            "sequence_batching.state 'off'",
        ),
        ('batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 } ]', "batch_input"),
        (
            'input [ { name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true } ]',
            "allow_ragged_batch of input 'x'",
        ),
    ],
)
def test_unsupported_features_are_rejected_by_the_embedded_backend_only(text: str, words: str) -> None:
    assert problems(config(text)) == []
    (problem,) = embedded_problems(config(text))
    assert words in problem
    assert "valid on NGC" in problem


def test_settings_that_are_applied_differently_give_warnings() -> None:
    assert "openvino" in embedded_warnings(config(OPENVINO))[0]
    shared = parameter("share_session_between_instances", "true")
    assert "share_session_between_instances" in embedded_warnings(config(shared))[0]
    assert embedded_warnings(config(ON_CPU)) == []


@pytest.mark.parametrize(("text", "value"), [("1", True), ("TRUE", True), ("on", True), ("0", False), ("Off", False)])
def test_booleans_are_parsed_as_triton_parses_them(text: str, value: bool) -> None:
    assert boolean(text) is value
