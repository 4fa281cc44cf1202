"""Returns its text and the parameters and hint it received."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "TEXT")
            hint = pb_utils.get_input_tensor_by_name(request, "HINT")
            seen = {
                "parameters": json.loads(request.parameters() or "{}"),
                "hint": None if hint is None else hint.as_numpy().reshape(-1)[0].decode(),
            }
            saw = np.full(text.as_numpy().shape, json.dumps(seen).encode(), dtype=object)
            outputs = [pb_utils.Tensor("OUT", text.as_numpy()), pb_utils.Tensor("SAW", saw)]
            responses.append(pb_utils.InferenceResponse(outputs))
        return responses
