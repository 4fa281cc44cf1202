"""What the ``model.py`` of every generation backend shares.

Example of a ``model.py``:
    >>> class TritonPythonModel(GenerationModel):
    ...     pb_utils = triton_python_backend_utils
    ...     def load(self, model):
    ...         return MyEngine(model)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from trireme_backends.errors import error_response
from trireme_backends.generation.contract import INPUTS, OUTPUTS, Tensor
from trireme_backends.generation.engine import Engine
from trireme_backends.generation.errors import GenerationError
from trireme_backends.generation.metrics import GenerationMetrics
from trireme_backends.generation.service import GenerationService
from trireme_backends.model import Model


class GenerationModel(ABC):
    """One instance of a model: passes Triton's requests to the engine, and its pieces back."""

    pb_utils: Any

    @abstractmethod
    def load(self, model: Model) -> Engine:
        """The engine of a model's version.

        Raises:
            ModelError: it cannot be loaded.
        """

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """The contract's tensors, decoupled, no batch dimension."""
        config.set_model_transaction_policy({"decoupled": True})
        config.set_max_batch_size(0)
        for name, (datatype, optional) in INPUTS.items():
            config.add_input({"name": name, "data_type": datatype, "dims": [1], "optional": optional})
        for name, datatype in OUTPUTS.items():
            config.add_output({"name": name, "data_type": datatype, "dims": [-1]})
        return config

    def initialize(self, args: Mapping[str, str]) -> None:
        model = Model.from_arguments(args)
        engine = self.load(model)
        self._metrics = GenerationMetrics(self.pb_utils, model.name, model.version_dir.name)
        self._service = GenerationService(engine, self._metrics)

    def execute(self, requests: Sequence[Any]) -> None:
        """``execute`` of a decoupled model: returns at once; responses go through response senders."""
        for request in requests:
            self._service.accept(request.request_id(), self._tensors(request), _TritonReply(self.pb_utils, request))

    def finalize(self) -> None:
        self._service.close()
        self._metrics.close()

    def _tensors(self, request: Any) -> Any:
        def tensor(name: str) -> Tensor | None:
            found = self.pb_utils.get_input_tensor_by_name(request, name)
            array: Tensor | None = None if found is None else found.as_numpy()
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
        self._send(error_response(self._pb_utils, error), final=True)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())

    def _send(self, response: Any, *, final: bool) -> None:
        self._sender.send(response, flags=self._pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if final else 0)
