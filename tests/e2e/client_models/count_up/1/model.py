"""Streams numbers until COUNT or until the caller cancels. A COUNT below 0 is an error after the first number."""

import json
import time

import numpy as np
import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def initialize(self, args):
        self.ever = 0

    def execute(self, requests):
        for request in requests:
            self._stream(request)

    def _stream(self, request):
        count, every_ms = (
            int(pb_utils.get_input_tensor_by_name(request, name).as_numpy()[0]) for name in ("COUNT", "EVERY_MS")
        )
        size = int(json.loads(request.parameters() or "{}").get("padding", 0))
        sender = request.get_response_sender()
        for number in range(abs(count)):
            if sender.is_cancelled():
                break
            self.ever += 1
            tensors = [
                pb_utils.Tensor("NUMBER", np.array([number], np.int32)),
                pb_utils.Tensor("EVER", np.array([self.ever], np.int32)),
                pb_utils.Tensor("PADDING", np.zeros(size, np.uint8)),
            ]
            sender.send(pb_utils.InferenceResponse(tensors))
            if count < 0:
                sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("no number is below 0")))
                break
            time.sleep(every_ms / 1000)
        sender.send(flags=FINAL)
