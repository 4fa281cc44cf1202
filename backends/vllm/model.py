"""Triton backend ``vllm``: runs vLLM in this process; replaces NVIDIA's backend of that name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils
from trireme_backends.generation.triton import GenerationBackend, complete_config
from trireme_backends.generation.vllm_config import VllmConfig
from trireme_backends.generation.vllm_engine import VllmEngine
from trireme_backends.generation.vllm_environment import enter_vllm_environment
from trireme_backends.model import Model


class TritonPythonModel:
    auto_complete_config = staticmethod(complete_config)

    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        enter_vllm_environment()
        self._backend = GenerationBackend(pb_utils, model, VllmEngine(VllmConfig.read(model)))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        self._backend.execute(requests)

    def finalize(self) -> None:
        self._backend.close()
