"""Triton backend ``openai_engine``: proxies the generation contract to an engine with OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils
from trireme_backends.generation.openai_config import OpenAIConfig
from trireme_backends.generation.openai_engine import OpenAIEngine
from trireme_backends.generation.triton import GenerationBackend, complete_config
from trireme_backends.model import Model


class TritonPythonModel:
    auto_complete_config = staticmethod(complete_config)

    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        self._backend = GenerationBackend(pb_utils, model, OpenAIEngine(OpenAIConfig.read(model)))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        self._backend.execute(requests)

    def finalize(self) -> None:
        self._backend.close()
