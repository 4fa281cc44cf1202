"""Resource requirements of models, computed from their configs: instances, threads, shared memory."""

from __future__ import annotations

import math
from collections.abc import Iterable

from trireme.processes.machine import Machine
from trireme.repository.model_config import ModelConfig, TensorSpec

# Backends that open one ONNX Runtime session per instance, and the parameter that limits its threads.
_THREADS_PARAMETERS = {"onnxruntime": "intra_op_thread_count", "text_encoder": "thread_count"}
# Triton starts two CPU instances of these backends if the config has no count.
_TWO_BY_DEFAULT = {"onnxruntime", "tensorflow"}

# A stub's region in /dev/shm starts with this size, grows in steps of this size, and never shrinks.
_REGION_STEP_BYTES = 1024**2
# Assumed size of a string and of a variable dimension.
_STRING_BYTES = 1024
_VARIABLE_DIMENSION = 256
_ELEMENT_BYTES = {
    **dict.fromkeys(("BOOL", "UINT8", "INT8"), 1),
    **dict.fromkeys(("UINT16", "INT16", "FP16", "BF16"), 2),
    **dict.fromkeys(("UINT32", "INT32", "FP32"), 4),
    **dict.fromkeys(("UINT64", "INT64", "FP64"), 8),
    "BYTES": _STRING_BYTES,
}


def instance_count(config: ModelConfig, machine: Machine) -> int:
    """The number of instances that Triton starts; a GPU group starts ``count`` instances on each GPU.

    Source: triton core, ``NormalizeInstanceGroup`` and ``SetDefaultInstanceCount``.
    """
    if config.is_ensemble:
        return 0
    total = 0
    groups = [(group.kind, group.count, group.gpus) for group in config.instance_groups]
    for kind, count, gpus in groups or [("AUTO", 0, ())]:
        on_gpu = kind == "GPU" or (kind == "AUTO" and machine.gpus > 0)
        default = 2 if config.backend in _TWO_BY_DEFAULT and not on_gpu and kind != "MODEL" else 1
        devices = max(1, len(gpus) or machine.gpus) if on_gpu else 1
        total += (count or default) * devices
    return total


def compute_threads(config: ModelConfig, machine: Machine) -> int:
    """The total compute threads of all busy instances; 0 for models without an ONNX Runtime session on the CPU.

    A session without a limit starts one thread per core.
    """
    if config.backend not in _THREADS_PARAMETERS:
        return 0
    if machine.gpus and all(group.kind in ("GPU", "AUTO") for group in config.instance_groups):
        return 0
    given = config.parameters.get(_THREADS_PARAMETERS[config.backend], "0")
    threads = int(given) if given.isdecimal() else 0
    return instance_count(config, machine) * (threads or machine.cores)


def shared_memory_bytes(configs: Iterable[ModelConfig], machine: Machine) -> int:
    """The bytes of ``/dev/shm`` that Python-based models use if each instance holds one full batch.

    The region of an instance starts at 1 MiB and grows in steps of 1 MiB with the inputs and outputs of its largest
    batch:

        sum over models of: instances x (1 MiB + max_batch_size x bytes of one row in and out, rounded up to MiB)

    A string counts as 1 KiB, a variable dimension as 256.
    """
    return sum(instance_count(config, machine) * _region_bytes(config) for config in configs)


def _region_bytes(config: ModelConfig) -> int:
    row = sum(_row_bytes(tensor) for tensor in (*config.inputs, *config.outputs))
    batch = row * max(1, config.max_batch_size)
    return _REGION_STEP_BYTES * (1 + math.ceil(batch / _REGION_STEP_BYTES))


def _row_bytes(tensor: TensorSpec) -> int:
    elements = math.prod(_VARIABLE_DIMENSION if dim == -1 else dim for dim in tensor.dims)
    return elements * _ELEMENT_BYTES.get(tensor.datatype, 8)
