"""All lint rules, grouped by subject."""

from __future__ import annotations

from trireme.lint.rules import (
    batching,
    ensemble,
    ensemble_calls,
    instances,
    model_files,
    names,
    onnxruntime,
    routes,
    samples,
    tensors,
)
from trireme.lint.subject import Rule

ALL_RULES: tuple[Rule, ...] = (
    *names.RULES,
    *tensors.RULES,
    *ensemble.RULES,
    *ensemble_calls.RULES,
    *routes.RULES,
    *batching.RULES,
    *samples.RULES,
    *instances.RULES,
    *model_files.RULES,
    *onnxruntime.RULES,
)
