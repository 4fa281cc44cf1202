"""Triton backend ``openvino_genai``: text generation on a CPU, with continuous batching over a paged KV cache.

Configured by the version's ``model.json``; see ``trireme_backends.generation.openvino_settings``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import triton_python_backend_utils as pb_utils
from trireme_backends.generation.openvino_engine import OpenVinoEngine
from trireme_backends.generation.openvino_settings import OpenVinoSettings
from trireme_backends.generation.triton import GenerationBackend, complete_config
from trireme_backends.model import Model


class TritonPythonModel:
    auto_complete_config = staticmethod(complete_config)

    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        settings = OpenVinoSettings.of(model)
        self._backend = GenerationBackend(pb_utils, model, OpenVinoEngine(settings.weights(model), settings))

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> None:
        self._backend.execute(requests)

    def finalize(self) -> None:
        self._backend.close()
