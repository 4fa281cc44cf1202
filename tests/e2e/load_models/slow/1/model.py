"""Sleeps."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._answer(request) for request in requests]

    def _answer(self, request):
        time.sleep(0.1)
        text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()[0, 0]
        if text == b"fail":
            return pb_utils.InferenceResponse(error=pb_utils.TritonError("asked to", pb_utils.TritonError.UNAVAILABLE))
        return pb_utils.InferenceResponse([pb_utils.Tensor("LENGTH", np.array([[len(text)]], np.int32))])
