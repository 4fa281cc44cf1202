"""The shared part of the generation backends' ``model.py``; ``pb_utils`` is ``triton_python_backend_utils``.

Example of a ``model.py``:
    >>> class TritonPythonModel:
    ...     auto_complete_config = staticmethod(complete_config)
    ...     def initialize(self, args):
    ...         model = Model.from_arguments(args)
    ...         self._backend = GenerationBackend(pb_utils, model, MyEngine(read_engine_file(model)))
    ...     def execute(self, requests):
    ...         self._backend.execute(requests)
    ...     def finalize(self):
    ...         self._backend.close()
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trireme_backends.generation.contract import INPUTS, OUTPUTS, Tensor
from trireme_backends.generation.engine import Engine
from trireme_backends.generation.errors import (
    CancelledError,
    EngineError,
    GenerationError,
    OverloadedError,
    UnsupportedError,
)
from trireme_backends.generation.metrics import TritonMetrics
from trireme_backends.generation.service import GenerationService
from trireme_backends.model import Model


def complete_config(config: Any) -> Any:
    """``auto_complete_config`` of every generation backend: the contract's tensors, decoupled, without batching."""
    config.set_model_transaction_policy({"decoupled": True})
    config.set_max_batch_size(0)
    for name, (datatype, optional) in INPUTS.items():
        config.add_input({"name": name, "data_type": datatype, "dims": [1], "optional": optional})
    for name, datatype in OUTPUTS.items():
        config.add_output({"name": name, "data_type": datatype, "dims": [-1]})
    return config


class GenerationBackend:
    """One instance of a model: passes Triton's requests to the engine, and the engine's chunks to Triton."""

    def __init__(self, pb_utils: Any, model: Model, engine: Engine) -> None:
        self._pb_utils = pb_utils
        self._metrics = TritonMetrics(pb_utils, model.name, model.version_dir.name)
        self._service = GenerationService(engine, self._metrics)

    def execute(self, requests: Sequence[Any]) -> None:
        """``execute`` of a decoupled model: returns at once; responses go through response senders."""
        for request in requests:
            self._service.accept(request.request_id(), self._tensors(request), _TritonReply(self._pb_utils, request))

    def close(self) -> None:
        self._service.close()
        self._metrics.close()

    def _tensors(self, request: Any) -> Any:
        def tensor(name: str) -> Tensor | None:
            value = self._pb_utils.get_input_tensor_by_name(request, name)
            array: Tensor | None = None if value is None else value.as_numpy()
            return array

        return tensor


class _TritonReply:
    """A ``service.Reply`` through a response sender."""

    def __init__(self, pb_utils: Any, request: Any) -> None:
        self._pb_utils = pb_utils
        self._sender = request.get_response_sender()

    def send(self, tensors: list[tuple[str, Tensor]], *, final: bool) -> None:
        response = self._pb_utils.InferenceResponse([self._pb_utils.Tensor(name, value) for name, value in tensors])
        self._send(response, final=final)

    def fail(self, error: GenerationError) -> None:
        triton_error = self._pb_utils.TritonError(str(error), _code(self._pb_utils.TritonError, error))
        self._send(self._pb_utils.InferenceResponse(error=triton_error), final=True)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def _send(self, response: Any, *, final: bool) -> None:
        self._sender.send(response, flags=self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)


def _code(codes: Any, error: GenerationError) -> Any:
    if isinstance(error, OverloadedError):
        return codes.UNAVAILABLE
    if isinstance(error, EngineError):
        return codes.INTERNAL
    if isinstance(error, UnsupportedError):
        return codes.UNSUPPORTED
    return codes.CANCELLED if isinstance(error, CancelledError) else codes.INVALID_ARG
