"""Requests as bytes, ready to send."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
from trireme.repository.golden import Tensors
from tritonclient.grpc import service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

Parameters = Mapping[str, str | int | bool]


def text_tensors(text: str) -> Tensors:
    """The input of a text model: one row of ``TEXT``, BYTES [1, 1]."""
    return {"TEXT": np.array([[text.encode()]], dtype=np.object_)}


def grpc_body(model: str, inputs: Tensors, parameters: Parameters | None = None) -> bytes:
    """A serialised KServe ``ModelInferRequest``."""
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, tensor in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(tensor.dtype), shape=tensor.shape)
        raw = serialize_byte_tensor(tensor).item() if tensor.dtype == np.object_ else tensor.tobytes()
        request.raw_input_contents.append(raw)
    for name, value in (parameters or {}).items():
        field = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(request.parameters[name], field, value)
    return bytes(request.SerializeToString())


def http_body(inputs: Tensors, parameters: Parameters | None = None) -> bytes:
    """A KServe inference request as JSON.

    Raises:
        UnicodeDecodeError: a BYTES element is not UTF-8, which JSON cannot carry.
    """
    tensors = [
        {
            "name": name,
            "datatype": np_to_triton_dtype(tensor.dtype),
            "shape": list(tensor.shape),
            "data": [value.decode() if isinstance(value, bytes) else value for value in tensor.reshape(-1).tolist()],
        }
        for name, tensor in inputs.items()
    ]
    return json.dumps({"inputs": tensors, **({"parameters": dict(parameters)} if parameters else {})}).encode()
