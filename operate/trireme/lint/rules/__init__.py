"""The rules, grouped by what they speak about."""

from __future__ import annotations

from trireme.lint.rules import batching, ensemble, instances, names, onnx_file, routes, tensorrt, tensors, warmup
from trireme.lint.subject import Rule

ALL_RULES: tuple[Rule, ...] = (
    *names.RULES,
    *tensors.RULES,
    *ensemble.RULES,
    *routes.RULES,
    *batching.RULES,
    *warmup.RULES,
    *instances.RULES,
    *onnx_file.RULES,
    *tensorrt.RULES,
)
