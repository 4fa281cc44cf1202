"""Runs an ONNX model on the tensors of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

from trireme_backends.batch import Tensors
from trireme_backends.errors import RequestError
from trireme_backends.onnxruntime_session import run_options, run_session

Config = Mapping[str, Any]


class OnnxModel:
    """A session with a valid configuration."""

    def __init__(self, config: Config, session: onnxruntime.InferenceSession) -> None:
        self.batches = config.get("max_batch_size", 0) > 0
        self._session = session
        self._run_options = run_options(config)
        self._outputs = [tensor["name"] for tensor in config["output"]]
        inputs = (*session.get_inputs(), *session.get_overridable_initializers())
        self._scalars = {node.name for node in inputs if not node.shape}

    def run(self, tensors: Tensors) -> Tensors:
        """The configured outputs by name. BYTES tensors are object arrays of ``bytes``, in inputs and outputs.

        Raises:
            RequestError: a string is not UTF-8, or ONNX Runtime failed.
        """
        feeds = {name: self._feed(name, tensor) for name, tensor in tensors.items()}
        outputs = run_session(self._session, self._outputs, feeds, self._run_options)
        return {name: _to_triton(output) for name, output in zip(self._outputs, outputs, strict=True)}

    def _feed(self, name: str, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if tensor.dtype == np.object_:
            tensor = _decoded(name, tensor)
        return tensor.reshape(()) if name in self._scalars else tensor


def _decoded(name: str, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """``tensor`` with ``str`` elements, which ONNX Runtime takes, in place of Triton's ``bytes``."""
    texts: npt.NDArray[Any] = np.empty(tensor.shape, dtype=np.object_)
    for index, value in np.ndenumerate(tensor):
        try:
            texts[index] = value.decode()
        except UnicodeDecodeError as error:
            raise RequestError(f"element {list(index)} of input '{name}' is not UTF-8: {error.reason}") from None
    return texts


def _to_triton(output: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """An output in Triton's form: strings as bytes, a scalar with one dimension."""
    if output.dtype == np.object_:
        flat = [str(value).encode() for value in output.reshape(-1)]
        encoded = np.empty(len(flat), dtype=np.object_)
        encoded[:] = flat
        output = encoded.reshape(output.shape)
    return output if output.shape else output.reshape(1)
