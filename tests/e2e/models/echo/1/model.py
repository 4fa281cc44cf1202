"""Answers each text with itself. ``sleep:SECONDS`` answers after that time, so that a test finds it in flight."""

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            for text in texts.reshape(-1):
                if text.startswith(b"sleep:"):
                    time.sleep(float(text.removeprefix(b"sleep:")))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", texts)]))
        return responses
