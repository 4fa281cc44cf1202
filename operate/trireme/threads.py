"""How many compute threads and processes a model asks of the machine, from its config alone."""

from __future__ import annotations

from trireme.machine import Machine
from trireme.model_config import ModelConfig

# Backends that open one ONNX Runtime session an instance, and the parameter that bounds a session's threads.
_ONNX_BACKENDS = {"onnxruntime", "text_encoder"}
_THREADS_PARAMETER = "intra_op_thread_count"
# Triton gives these backends two instances on CPU where the config names no count.
_TWO_BY_DEFAULT = {"onnxruntime", "tensorflow"}


def instance_count(config: ModelConfig, machine: Machine) -> int:
    """How many instances Triton starts; a group on GPUs starts its count on each.

    Source: triton core, ``NormalizeInstanceGroup`` and ``SetDefaultInstanceCount``.
    """
    if config.is_ensemble:
        return 0
    total = 0
    for kind, count, gpus in [(g.kind, g.count, g.gpus) for g in config.instance_groups] or [("AUTO", 0, ())]:
        on_gpu = kind == "GPU" or (kind == "AUTO" and machine.gpus > 0)
        default = 2 if config.backend in _TWO_BY_DEFAULT and not on_gpu and kind != "MODEL" else 1
        total += (count or default) * (max(1, len(gpus) or machine.gpus) if on_gpu else 1)
    return total


def threads_asked(config: ModelConfig, machine: Machine) -> int:
    """The compute threads that all instances run together when busy; 0 for models that open no session on the CPU.

    A session without a bound starts one thread a core.
    """
    if config.backend not in _ONNX_BACKENDS:
        return 0
    if machine.gpus and all(group.kind in ("GPU", "AUTO") for group in config.instance_groups):
        return 0
    given = config.parameters.get(_THREADS_PARAMETER, "0")
    threads = int(given) if given.isdecimal() else 0
    return instance_count(config, machine) * (threads or machine.cores)
