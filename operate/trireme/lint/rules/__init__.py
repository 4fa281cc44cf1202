"""The rules, grouped by what they speak about."""

from __future__ import annotations

from trireme.lint.rules import (
    batching,
    ensemble,
    ensemble_calls,
    golden_samples,
    instances,
    names,
    onnx_file,
    onnxruntime,
    routes,
    tensorrt,
    tensors,
    warmup,
)
from trireme.lint.subject import Rule

ALL_RULES: tuple[Rule, ...] = (
    *names.RULES,
    *tensors.RULES,
    *ensemble.RULES,
    *ensemble_calls.RULES,
    *routes.RULES,
    *batching.RULES,
    *warmup.RULES,
    *golden_samples.RULES,
    *instances.RULES,
    *onnx_file.RULES,
    *onnxruntime.RULES,
    *tensorrt.RULES,
)
