"""Converts named values to protocol messages, and responses to values. Independent of connections."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trireme_client._protos import Message, pb
from trireme_client.errors import InvalidInputError, InvalidRequestError
from trireme_client.shared_memory import SharedTensor
from trireme_client.spec import ModelSpec
from trireme_client.tensors import DTYPES, Array, byte_size, decode, encode, to_array

Parameter = str | int | bool | float
Outputs = Sequence[str] | Mapping[str, SharedTensor | None]
NO_PARAMETERS: Mapping[str, Parameter] = {}

# A protobuf message is limited to 2 GiB; a request also carries names and shapes.
MAX_MESSAGE_BYTES = 2**31 - 1
_MARGIN_BYTES = 64 * 1024

# What tritonserver accepts as a correlation id.
_MAX_SEQUENCE_NAME_BYTES = 128
# Parameters with an argument of their own, or with a meaning for the server.
_RESERVED = frozenset({"sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "binary_data_output"})


@dataclass(frozen=True, slots=True)
class SequenceStep:
    """One request of a sequence to a stateful model.

    Attributes:
        id: the sequence's number, 1 to 2**63 - 1, or a name of at most 128 bytes.
    """

    id: int | str
    start: bool = False
    end: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.id, str):
            if not 0 < len(self.id.encode()) <= _MAX_SEQUENCE_NAME_BYTES:
                raise ValueError(f"SequenceStep.id is {self.id!r}; a name has 1 to {_MAX_SEQUENCE_NAME_BYTES} bytes")
        elif not 0 < self.id < 2**63:
            raise ValueError(f"SequenceStep.id is {self.id}; it must be 1 to 2**63 - 1")


class InputTensor(NamedTuple):
    """A value that fits its input, with the request's shape and dtype."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    value: Array | SharedTensor


def build_requests(
    spec: ModelSpec,
    inputs: Mapping[str, object],
    *,
    outputs: Outputs | None = None,
    parameters: Mapping[str, Parameter] | None = None,
    version: str = "",
    request_id: str = "",
    sequence: SequenceStep | None = None,
    priority: int | None = None,
) -> list[Message]:
    """The requests of one call: one, or as many as ``max_batch_size`` requires for its rows, in order.

    Raises:
        InvalidInputError: a tensor does not fit the model; nothing is sent.
        InvalidRequestError: a parameter is reserved or of a wrong type, an output is unknown, or the message too large.
    """
    tensors = [_input_tensor(spec, name, value) for name, value in inputs.items()]
    for wanted in spec.inputs.values():
        if not wanted.optional and wanted.name not in inputs:
            raise InvalidInputError(wanted.name, f"is missing; model {spec.name} requires it")
    requests = []
    for rows in _batches(spec, tensors):
        request = pb.ModelInferRequest(model_name=spec.name, model_version=version, id=request_id)
        set_parameters(request, parameters or {}, sequence, priority)
        _set_outputs(request, spec, outputs)
        _add_inputs(request, tensors, rows)
        requests.append(request)
    if len(requests) > 1 and (sequence is not None or isinstance(outputs, Mapping)):
        raise InvalidRequestError(
            f"model {spec.name} accepts {spec.max_batch_size} rows; a sequence or shared memory cannot be split"
        )
    return requests


def _input_tensor(spec: ModelSpec, name: str, value: object) -> InputTensor:
    if name not in spec.inputs:
        raise InvalidInputError(name, f"is not an input of model {spec.name}; available: {', '.join(spec.inputs)}")
    wanted = spec.inputs[name]
    if isinstance(value, SharedTensor):
        if value.datatype != wanted.datatype:
            raise InvalidInputError(name, f"expected {wanted.datatype}, got shared memory of {value.datatype}")
        return InputTensor(name, wanted.datatype, spec.wire_shape(wanted, value.shape), value)
    array = to_array(name, wanted.datatype, value)
    shape = spec.wire_shape(wanted, array.shape)
    return InputTensor(name, wanted.datatype, shape, array if shape == array.shape else array.reshape(shape))


def _batches(spec: ModelSpec, tensors: Sequence[InputTensor]) -> list[slice | None]:
    """The rows of each request; None: all rows. Zero rows need no request."""
    if not spec.max_batch_size or not tensors:
        return [None]
    rows = tensors[0].shape[0]
    for tensor in tensors[1:]:
        if tensor.shape[0] != rows:
            raise InvalidInputError(
                tensor.name, f"has {tensor.shape[0]} rows, but {tensors[0].name!r} has {rows}; the numbers must match"
            )
    if 0 < rows <= spec.max_batch_size:
        return [None]
    for tensor in tensors:
        if isinstance(tensor.value, SharedTensor):
            raise InvalidInputError(
                tensor.name,
                f"has {rows} rows in shared memory, which cannot be split; the limit is {spec.max_batch_size}",
            )
    return [slice(at, at + spec.max_batch_size) for at in range(0, rows, spec.max_batch_size)]


def _add_inputs(request: Message, tensors: Sequence[InputTensor], rows: slice | None) -> None:
    size = _MARGIN_BYTES
    for tensor in tensors:
        value = tensor.value
        if isinstance(value, SharedTensor):
            added = request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
            value.set_parameters(added.parameters)
            continue
        part = value if rows is None else value[rows]
        # Before encoding: copying two gigabytes only to reject them would take seconds.
        size += byte_size(tensor.datatype, part)
        _check_size(size, tensor.name)
        raw = encode(tensor.name, tensor.datatype, part)
        if tensor.datatype == "BYTES":
            size += len(raw) - byte_size(tensor.datatype, part)
            _check_size(size, tensor.name)
        request.inputs.add(name=tensor.name, datatype=tensor.datatype, shape=part.shape)
        request.raw_input_contents.append(raw)


def _check_size(size: int, tensor: str) -> None:
    if size > MAX_MESSAGE_BYTES:
        raise InvalidInputError(
            tensor,
            f"makes the request {size:,} bytes, over the limit of {MAX_MESSAGE_BYTES:,} bytes; use shared memory",
        )


def set_parameters(
    request: Message,
    parameters: Mapping[str, Parameter],
    sequence: SequenceStep | None = None,
    priority: int | None = None,
) -> None:
    """Raises InvalidRequestError: a parameter is reserved or of a wrong type."""
    for key, value in parameters.items():
        if key in _RESERVED or key.startswith("triton_"):
            raise InvalidRequestError(f"parameter {key!r} is reserved by the server")
        _set_parameter(request.parameters[key], key, value)
    if sequence is not None:
        _set_parameter(request.parameters["sequence_id"], "sequence_id", sequence.id)
        request.parameters["sequence_start"].bool_param = sequence.start
        request.parameters["sequence_end"].bool_param = sequence.end
    if priority is not None:
        if not 0 <= priority < 2**32:
            raise InvalidRequestError(f"priority is {priority}; it must be 0 (the model's default) or a level from 1")
        request.parameters["priority"].uint64_param = priority


def _set_parameter(slot: Message, key: str, value: object) -> None:
    if isinstance(value, (bool, np.bool_)):
        slot.bool_param = bool(value)
    elif isinstance(value, (int, np.integer)):
        if not -(2**63) <= value < 2**63:
            raise InvalidRequestError(f"parameter {key!r} is {value}, which does not fit 64 bits")
        slot.int64_param = int(value)
    elif isinstance(value, str):
        slot.string_param = value
    elif isinstance(value, (float, np.floating)):
        if not math.isfinite(value):  # models receive parameters as JSON, which has no such number
            raise InvalidRequestError(f"parameter {key!r} is {value}; expected a finite number")
        slot.double_param = float(value)
    else:
        raise InvalidRequestError(f"parameter {key!r} is {value!r}; expected str, int, bool or float")


def _set_outputs(request: Message, spec: ModelSpec, outputs: Outputs | None) -> None:
    for name in outputs or ():
        if name not in spec.outputs:
            raise InvalidRequestError(f"model {spec.name} has no output {name!r}; available: {', '.join(spec.outputs)}")
        added = request.outputs.add(name=name)
        shared = outputs[name] if isinstance(outputs, Mapping) else None
        if shared is not None:
            shared.set_parameters(added.parameters)


def read_outputs(response: Message, outputs: Outputs | None) -> dict[str, Array]:
    """The tensors of a response, by name.

    Raises:
        ValueError: the response contradicts itself.
    """
    found: dict[str, Array] = {}
    # An output in shared memory has an empty entry among the raw contents, and no other mark.
    for output, raw in zip(response.outputs, response.raw_output_contents, strict=True):
        shape = tuple(output.shape)
        shared = outputs.get(output.name) if isinstance(outputs, Mapping) else None
        if shared is None:
            found[output.name] = decode(output.datatype, shape, raw)
        elif output.datatype == "BYTES":
            found[output.name] = decode(output.datatype, shape, shared.view(shared.byte_size))
        else:
            size = math.prod(shape) * DTYPES[output.datatype].itemsize
            found[output.name] = decode(output.datatype, shape, shared.view(size))
    return found


def empty_outputs(spec: ModelSpec, outputs: Outputs | None) -> dict[str, Array]:
    """The outputs of a batch of zero rows: zero rows each; a size that only the model knows is 0."""
    return {
        output.name: np.empty((0, *(max(dim, 0) for dim in output.dims)), DTYPES[output.datatype])
        for output in spec.outputs.values()
        if not outputs or output.name in outputs
    }


def join_outputs(parts: Sequence[Mapping[str, Array]], rows: Sequence[int]) -> dict[str, Array]:
    """The outputs of a call that was split into requests of ``rows`` rows each, in order.

    An output whose rows differ in shape from one request to the next, such as texts padded to the longest of their
    request, becomes an array of dtype object with one array per row.

    Raises:
        ValueError: a response does not have the rows of its request.
    """
    if len(parts) == 1:
        return dict(parts[0])
    joined = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        arrays = [part[name] for part in parts if name in part]
        if [array.shape[:1] for array in arrays] != [(count,) for count in rows]:
            shapes = ", ".join(str(list(array.shape)) for array in arrays)
            raise ValueError(f"output {name!r} has the shapes {shapes} for requests of {list(rows)} rows")
        if len({array.shape[1:] for array in arrays}) == 1:
            joined[name] = np.concatenate(arrays)
        else:
            joined[name] = np.empty(sum(rows), dtype=object)
            for index, row in enumerate(row for array in arrays for row in array):
                joined[name][index] = row
    return joined


def read_parameters(message: Message) -> dict[str, Parameter]:
    """A message's parameters as Python values."""
    return {key: getattr(value, value.WhichOneof("parameter_choice")) for key, value in message.parameters.items()
            if value.WhichOneof("parameter_choice")}  # fmt: skip
