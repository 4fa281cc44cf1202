"""Fails as the request specifies."""

import os

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        how = pb_utils.get_input_tensor_by_name(requests[0], "HOW").as_numpy()[0]
        if how == b"die":
            os._exit(1)
        raise RuntimeError(f"scripted failure: {how.decode()}")
