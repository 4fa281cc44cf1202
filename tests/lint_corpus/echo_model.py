"""A Python-based backend without weights: it accepts any config and returns zeros for every request."""

import json

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """The corpus's backend ``echo``."""

    def initialize(self, args):
        self.config = json.loads(args["model_config"])

    def execute(self, requests):
        return [pb_utils.InferenceResponse([self._zeros(output) for output in self.config["output"]]) for _ in requests]

    def _zeros(self, output):
        batch = [1] if self.config["max_batch_size"] else []
        shape = batch + [max(1, int(dim)) for dim in output["dims"]]
        return pb_utils.Tensor(output["name"], np.zeros(shape, pb_utils.triton_string_to_numpy(output["data_type"])))
