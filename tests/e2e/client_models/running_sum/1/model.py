"""Sums each sequence."""

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            x, start = (
                int(pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1)[0])
                for name in ("X", "START")
            )
            # A number or a name. As a control input (CONTROL_SEQUENCE_CORRID) tritonserver 24.10 rejects names.
            sequence = request.correlation_id()
            self.sums[sequence] = x if start else self.sums[sequence] + x
            total = np.array([[self.sums[sequence]]], np.int32)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("SUM", total)]))
        return responses
