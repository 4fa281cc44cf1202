"""Checks a ``config.pbtxt`` for the onnxruntime backend, without the model's file.

``problems`` are rejected by NGC's native backend and by the embedded one; ``embedded_problems`` are valid on NGC but
rejected by the embedded backend, because its results would be wrong; ``embedded_warnings`` are settings that the
embedded backend applies differently.

The configuration is in its JSON form: what Triton passes to a Python backend, or protobuf's ``MessageToDict`` with
``preserving_proto_field_name``.

Source of the rules: the native backend (triton-inference-server/onnxruntime_backend, release 24.10), its README and
``ModelState``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]

_PLATFORM = "onnxruntime_onnx"
_TRUE, _FALSE = ("1", "true", "on"), ("0", "false", "off")


def problems(config: Config) -> list[str]:
    """What both backends reject, one message each."""
    rules = (_platform_problems, _parameter_problems, _accelerator_problems, _input_problems)
    return [problem for rule in rules for problem in rule(config)]


def embedded_problems(config: Config) -> list[str]:
    """What only the embedded backend rejects, one message each."""
    return [
        f"{what} is not supported by the embedded onnxruntime backend; valid on NGC" for what in _unsupported(config)
    ]


def embedded_warnings(config: Config) -> list[str]:
    """What the embedded backend applies differently from NGC, one message each."""
    found = []
    if _accelerators(config).get("cpu_execution_accelerator"):
        found.append("cpu_execution_accelerator 'openvino' is not available; ONNX Runtime's CPU provider is used")
    if boolean(parameter(config, "share_session_between_instances") or "0"):
        found.append("share_session_between_instances is ignored: each instance is a process with its own session")
    return found


def parameter(config: Config, key: str) -> str | None:
    """The string value of an entry of ``parameters``."""
    value = config.get("parameters", {}).get(key)
    return None if value is None else value.get("string_value", "")


def boolean(text: str) -> bool:
    """A boolean as Triton parses it: 1/0, true/false, on/off, case-insensitive.

    Raises:
        ValueError: ``text`` is something else.
    """
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError(f"'{text}' is not one of 1, 0, true, false, on, off")


def _platform_problems(config: Config) -> Iterator[str]:
    platform = config.get("platform") or _PLATFORM
    if platform != _PLATFORM:
        yield f"platform '{platform}' is invalid for backend 'onnxruntime'; remove it, or write '{_PLATFORM}'"


@dataclass(frozen=True, slots=True)
class _Kind:
    """The type of a parameter: ``parse`` raises ValueError for an invalid value."""

    expected: str
    parse: Callable[[str], object]


def _choice(*allowed: str) -> Callable[[str], object]:
    return allowed.index


_COUNT = _Kind("an integer", int)
_SWITCH = _Kind("1 or 0, true or false", boolean)
_TEXT = _Kind("any text", str)

_PARAMETERS = {
    "intra_op_thread_count": _COUNT,
    "inter_op_thread_count": _COUNT,
    "execution_mode": _Kind("0 (sequential) or 1 (parallel)", _choice("0", "1")),
    "enable_mem_arena": _SWITCH,
    "enable_mem_pattern": _SWITCH,
    "share_session_between_instances": _SWITCH,
}
_TENSORRT = {
    "precision_mode": _Kind("FP32, FP16 or INT8", _choice("FP32", "FP16", "INT8")),
    "max_workspace_size_bytes": _COUNT,
    "int8_calibration_table_name": _TEXT,
    "int8_use_native_calibration_table": _SWITCH,
    "trt_auxiliary_streams": _COUNT,
    "trt_build_heuristics_enable": _SWITCH,
    "trt_builder_optimization_level": _COUNT,
    "trt_context_memory_sharing_enable": _SWITCH,
    "trt_cuda_graph_enable": _SWITCH,
    "trt_detailed_build_log": _SWITCH,
    "trt_dla_core": _COUNT,
    "trt_dla_enable": _SWITCH,
    "trt_dump_ep_context_model": _SWITCH,
    "trt_dump_subgraphs": _SWITCH,
    "trt_engine_cache_enable": _SWITCH,
    "trt_engine_cache_path": _TEXT,
    "trt_engine_cache_prefix": _TEXT,
    "trt_ep_context_embed_mode": _COUNT,
    "trt_ep_context_file_path": _TEXT,
    "trt_extra_plugin_lib_paths": _TEXT,
    "trt_force_sequential_engine_build": _SWITCH,
    "trt_force_timing_cache": _SWITCH,
    "trt_layer_norm_fp32_fallback": _SWITCH,
    "trt_max_partition_iterations": _COUNT,
    "trt_min_subgraph_size": _COUNT,
    "trt_profile_max_shapes": _TEXT,
    "trt_profile_min_shapes": _TEXT,
    "trt_profile_opt_shapes": _TEXT,
    "trt_sparsity_enable": _SWITCH,
    "trt_tactic_sources": _TEXT,
    "trt_timing_cache_enable": _SWITCH,
    "trt_timing_cache_path": _TEXT,
}


def _check(kinds: Mapping[str, _Kind], values: Mapping[str, str], where: str) -> Iterator[str]:
    for key, value in values.items():
        try:
            kinds[key].parse(value)
        except ValueError:
            yield f"{where}: {key} is '{value}'; it must be {kinds[key].expected}"


def _parameter_problems(config: Config) -> Iterator[str]:
    given = {key: parameter(config, key) for key in _PARAMETERS}
    yield from _check(_PARAMETERS, {key: value for key, value in given.items() if value is not None}, "parameters")


def _accelerator_problems(config: Config) -> Iterator[str]:
    accelerators = _accelerators(config)
    for entry in accelerators.get("cpu_execution_accelerator", []):
        if entry.get("name") != "openvino":
            yield f"cpu_execution_accelerator '{entry.get('name', '')}' is unknown; available: 'openvino'"
    # The native backend ignores GPU accelerators for an instance on the CPU.
    if not _may_run_on_gpu(config):
        return
    for entry in accelerators.get("gpu_execution_accelerator", []):
        name, given = entry.get("name", ""), entry.get("parameters", {})
        where = f"gpu_execution_accelerator '{name}'"
        if name == "tensorrt":
            for key in sorted(given.keys() - _TENSORRT.keys()):
                yield f"{where} has no parameter '{key}'; available: {', '.join(_TENSORRT)}"
            yield from _check(_TENSORRT, {key: value for key, value in given.items() if key in _TENSORRT}, where)
        elif name != "cuda":
            yield f"{where} is unknown; available: 'tensorrt', 'cuda'"


def _accelerators(config: Config) -> Mapping[str, Any]:
    found: Mapping[str, Any] = config.get("optimization", {}).get("execution_accelerators", {})
    return found


def _may_run_on_gpu(config: Config) -> bool:
    groups = config.get("instance_group", [])
    return not groups or any(group.get("kind", "KIND_AUTO") in ("KIND_GPU", "KIND_AUTO") for group in groups)


def _input_problems(config: Config) -> Iterator[str]:
    for tensor in config.get("input", []):
        if tensor.get("optional") and config.get("max_batch_size", 0) > 0:
            yield f"input '{tensor['name']}' is optional, but the model batches; remove one of the two"
        elif tensor.get("optional") and tensor.get("allow_ragged_batch"):
            yield f"input '{tensor['name']}' is both optional and ragged; remove one of the two"


def _unsupported(config: Config) -> Iterator[str]:
    for state in config.get("sequence_batching", {}).get("state", []):
        yield f"sequence_batching.state '{state.get('input_name', '')}'"
    for field in ("batch_input", "batch_output"):
        if config.get(field):
            yield field
    for tensor in config.get("input", []):
        if tensor.get("allow_ragged_batch"):
            yield f"allow_ragged_batch of input '{tensor['name']}'"
