"""Answers each text with itself; ``hold:PATH`` makes that file and answers two seconds later."""

import time
from pathlib import Path

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            texts = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy()
            for text in texts.reshape(-1):
                if text.startswith(b"hold:"):
                    Path(text.removeprefix(b"hold:").decode()).touch()
                    time.sleep(2.0)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("ANSWER", texts)]))
        return responses
