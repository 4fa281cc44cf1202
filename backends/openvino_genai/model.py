"""Triton backend ``openvino_genai``: text generation on a CPU, with continuous batching over a paged KV cache.

The version's ``model.json`` is described in ``trireme_backends.generation.openvino_settings``.
"""

from __future__ import annotations

import triton_python_backend_utils
from trireme_backends.generation.openvino_engine import OpenVinoEngine
from trireme_backends.generation.openvino_settings import OpenVinoSettings
from trireme_backends.generation.triton import GenerationModel
from trireme_backends.model import Model


class TritonPythonModel(GenerationModel):
    pb_utils = triton_python_backend_utils

    def load(self, model: Model) -> OpenVinoEngine:
        settings = OpenVinoSettings.of(model)
        return OpenVinoEngine(settings.weights(model), settings)
