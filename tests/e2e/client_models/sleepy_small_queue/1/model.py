"""Sleeps and counts."""

import time

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.executed = 0

    def execute(self, requests):
        responses = []
        for request in requests:
            self.executed += 1
            time.sleep(int(pb_utils.get_input_tensor_by_name(request, "SLEEP_MS").as_numpy().max()) / 1000)
            count = np.array([[self.executed]], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("EXECUTED", count)]))
        return responses
