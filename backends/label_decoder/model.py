from __future__ import annotations

import json

import numpy as np
import triton_python_backend_utils as pb_utils

from trireme_backends.model import Model


class TritonPythonModel:
    def initialize(self, args):
        model = Model.from_arguments(args)
        self.labels = np.array([s.encode() for s in json.loads(model.file("labels.json").read_text())], dtype=np.object_)

    def execute(self, requests):
        responses = []
        for request in requests:
            p = pb_utils.get_input_tensor_by_name(request, "PROBABILITIES").as_numpy()
            responses.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("LABEL", self.labels[p.argmax(axis=1)].reshape(-1, 1)),
                pb_utils.Tensor("SCORE", p.max(axis=1, keepdims=True)),
            ]))
        return responses
