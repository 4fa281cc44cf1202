"""Triton backend ``openai_engine``: proxies the generation contract to an engine with OpenAI's API."""

from __future__ import annotations

import triton_python_backend_utils
from trireme_backends.generation.openai_config import OpenAIConfig
from trireme_backends.generation.openai_engine import OpenAIEngine
from trireme_backends.generation.triton import GenerationModel
from trireme_backends.model import Model


class TritonPythonModel(GenerationModel):
    pb_utils = triton_python_backend_utils

    def load(self, model: Model) -> OpenAIEngine:
        return OpenAIEngine(OpenAIConfig.read(model))
