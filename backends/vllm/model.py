"""Triton backend ``vllm``: runs vLLM in this process; replaces NVIDIA's backend of that name."""

from __future__ import annotations

import triton_python_backend_utils
from trireme_backends.generation.triton import GenerationModel
from trireme_backends.generation.vllm_config import VllmConfig
from trireme_backends.generation.vllm_engine import VllmEngine
from trireme_backends.generation.vllm_environment import enter_vllm_environment
from trireme_backends.model import Model


class TritonPythonModel(GenerationModel):
    pb_utils = triton_python_backend_utils

    def load(self, model: Model) -> VllmEngine:
        enter_vllm_environment()
        return VllmEngine(VllmConfig.read(model))
