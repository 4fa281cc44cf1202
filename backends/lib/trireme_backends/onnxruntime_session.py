"""Opens an ONNX Runtime session from a configuration for the native backend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from trireme_backends.batch import Tensors
from trireme_backends.errors import ModelError, RequestError
from trireme_backends.onnxruntime_rules import boolean, parameter

Config = Mapping[str, Any]

_DEFAULT_FILENAME = "model.onnx"
_LEVELS = {
    -1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    1: onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
}


def open_session(config: Config, version_dir: Path, *, device_id: int | None = None) -> onnxruntime.InferenceSession:
    """Load the version's ONNX file on the GPU ``device_id``, or on the CPU if it is None.

    Raises:
        ModelError: the file is missing, or ONNX Runtime cannot load it.
    """
    path = model_path(config, version_dir)
    if not path.is_file():
        raise ModelError(f"{path} is missing; export the model, or name the file in default_model_filename")
    return load_session(path, session_options(config), _providers(device_id))


def load_session(path: Path, options: onnxruntime.SessionOptions, providers: Any) -> onnxruntime.InferenceSession:
    """Load an ONNX file.

    Raises:
        ModelError: ONNX Runtime cannot load it.
    """
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        raise ModelError(f"ONNX Runtime cannot load {path}: {error}") from None


def run_session(
    session: onnxruntime.InferenceSession, outputs: Sequence[str], feeds: Tensors, options: Any = None
) -> Any:
    """The outputs, in order.

    Raises:
        RequestError: ONNX Runtime failed.
    """
    try:
        return session.run(outputs, feeds, options)
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        raise RequestError(f"ONNX Runtime failed: {error}") from None


def model_path(config: Config, version_dir: Path) -> Path:
    """The ONNX file of a version; if the configured name is a directory, ``model.onnx`` in it."""
    path = version_dir / (config.get("default_model_filename") or _DEFAULT_FILENAME)
    return path / _DEFAULT_FILENAME if path.is_dir() else path


def session_options(config: Config) -> onnxruntime.SessionOptions:
    """ONNX Runtime's options from ``optimization`` and ``parameters`` of a valid configuration."""
    options = onnxruntime.SessionOptions()
    level = int(config.get("optimization", {}).get("graph", {}).get("level", 0))
    options.graph_optimization_level = _LEVELS.get(level, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    options.intra_op_num_threads = max(int(parameter(config, "intra_op_thread_count") or 0), 0)
    options.inter_op_num_threads = max(int(parameter(config, "inter_op_thread_count") or 0), 0)
    if parameter(config, "execution_mode") == "1":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    if (arena := parameter(config, "enable_mem_arena")) is not None:
        options.enable_cpu_mem_arena = boolean(arena)
    if (pattern := parameter(config, "enable_mem_pattern")) is not None:
        options.enable_mem_pattern = boolean(pattern)
    initializers = "session.use_device_allocator_for_initializers"
    if (entry := parameter(config, initializers)) is not None:
        options.add_session_config_entry(initializers, entry)
    # Threads that spin while waiting would take CPU time from the server's other processes.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for library in config.get("model_operations", {}).get("op_library_filename", []):
        options.register_custom_ops_library(library)
    return options


def run_options(config: Config) -> onnxruntime.RunOptions:
    """ONNX Runtime's options for one run."""
    options = onnxruntime.RunOptions()
    shrinkage = "memory.enable_memory_arena_shrinkage"
    if (entry := parameter(config, shrinkage)) is not None:
        options.add_run_config_entry(shrinkage, entry)
    return options


def _providers(device_id: int | None) -> list[Any]:
    gpu = [("CUDAExecutionProvider", {"device_id": device_id})] if device_id is not None else []
    return [*gpu, "CPUExecutionProvider"]
