"""Returns its input."""

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [pb_utils.InferenceResponse([_renamed(tensor) for tensor in request.inputs()]) for request in requests]


def _renamed(tensor):
    if tensor.name() == "BF16":  # numpy has no BF16
        return pb_utils.Tensor.from_dlpack("BF16_OUT", tensor.to_dlpack())
    return pb_utils.Tensor(f"{tensor.name()}_OUT", tensor.as_numpy())
