"""Triton backend ``onnxruntime`` for the embedded server: replaces NGC's native backend of that name.

It accepts, rejects and completes the same configurations and returns the same results. The message of a configuration
that is rejected here but valid on NGC says that it is (``trireme_backends/onnxruntime_rules.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime
import triton_python_backend_utils as pb_utils
from trireme_backends.batch import Tensors, run_each, run_merged
from trireme_backends.errors import BackendError, ModelError, error_response
from trireme_backends.model import Model, version_dir_of_this_process
from trireme_backends.onnxruntime_model import OnnxModel
from trireme_backends.onnxruntime_rules import embedded_problems, embedded_warnings, problems
from trireme_backends.onnxruntime_session import open_session
from trireme_backends.onnxruntime_signature import Signature, complete, signature_problems


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config: pb_utils.ModelConfig) -> pb_utils.ModelConfig:
        config = auto_complete_model_config.as_dict()
        _reject_if_any(config["name"], [*problems(config), *embedded_problems(config)])
        if config.get("input") and config.get("output"):
            return auto_complete_model_config
        signature = Signature.from_session(open_session(config, version_dir_of_this_process()))
        completion = complete(config, signature)
        auto_complete_model_config.set_max_batch_size(completion.max_batch_size)
        if completion.dynamic_batching:
            auto_complete_model_config.set_dynamic_batching()
        # add_input and add_output do not accept reshape, which a batch of scalars needs.
        config["input"], config["output"] = completion.inputs, completion.outputs
        return auto_complete_model_config

    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        _reject_if_any(model.name, [*problems(model.config), *embedded_problems(model.config)])
        for warning in embedded_warnings(model.config):
            pb_utils.Logger.log_warn(f"model '{model.name}': {warning}")
        session = open_session(model.config, model.version_dir, device_id=_device_id(args))
        _reject_if_any(model.name, signature_problems(model.config, Signature.from_session(session)))
        self._model = OnnxModel(model.config, session)

    def execute(self, requests: Sequence[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        tensors = [{tensor.name(): tensor.as_numpy() for tensor in request.inputs()} for request in requests]
        run = run_merged if self._model.batches else run_each
        results = run(tensors, self._model.run)
        return [_response(request, result) for request, result in zip(requests, results, strict=True)]


def _reject_if_any(name: str, found: Sequence[str]) -> None:
    if found:
        raise ModelError(f"model '{name}': {'; '.join(found)}")


def _device_id(args: Mapping[str, str]) -> int | None:
    """The GPU that this instance runs on; None for the CPU."""
    if args["model_instance_kind"] != "GPU":
        return None
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pb_utils.Logger.log_warn(
            f"model '{args['model_name']}': the installed onnxruntime has no GPU support, so the model runs on the "
            "CPU; install the extra [gpu], or write kind: KIND_CPU"
        )
        return None
    return int(args["model_instance_device_id"])


def _response(request: pb_utils.InferenceRequest, answer: Tensors | BackendError) -> Any:
    if isinstance(answer, BackendError):
        return error_response(pb_utils, answer, request.request_id())
    return pb_utils.InferenceResponse([pb_utils.Tensor(name, tensor) for name, tensor in answer.items()])
