"""A model that is occasionally slow."""

import time

import triton_python_backend_utils as pb_utils

USUAL_SECONDS = 0.005
SLOW_SECONDS = 0.2
SLOW_EVERY = 50


class TritonPythonModel:
    def initialize(self, args):
        # Instances start at different counts, so that their slow responses do not coincide.
        self.answered = 13 * int(args["model_instance_name"].rpartition("_")[2])

    def execute(self, requests):
        responses = []
        for request in requests:
            self.answered += 1
            end = time.monotonic() + (USUAL_SECONDS if self.answered % SLOW_EVERY else SLOW_SECONDS)
            while time.monotonic() < end and not request.is_cancelled():
                time.sleep(min(USUAL_SECONDS, max(0.0, end - time.monotonic())))
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("Y", request.inputs()[0].as_numpy())]))
        return responses
