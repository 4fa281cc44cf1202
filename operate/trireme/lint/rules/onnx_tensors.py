"""The tensors of an ONNX graph against those of the config, for the onnxruntime backend.

Source of the rules: triton's onnxruntime backend, ``AutoCompleteConfig``, ``ValidateInputs``, ``ValidateOutputs`` and
``CompareDimsSupported``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx

from trireme.lint.finding import Complaint, did_you_mean, error
from trireme.lint.rules.onnx_file import onnx_files, read_onnx
from trireme.lint.subject import Rule, Subject
from trireme.model_config import TensorSpec

# The Open Inference Protocol's names, where they are not ONNX's own.
_DATATYPES = {"FLOAT": "FP32", "DOUBLE": "FP64", "FLOAT16": "FP16", "BFLOAT16": "BF16", "STRING": "BYTES"}
# Triton's --backend-config=default-max-batch-size, when it completes a config itself.
_COMPLETED_BATCH = 4


@dataclass(frozen=True, slots=True)
class _GraphTensor:
    """A tensor as the graph declares it; -1 stands for any dimension that is not a number."""

    datatype: str
    shape: tuple[int, ...]


def onnx_tensors_are_the_configs(subject: Subject) -> Iterator[Complaint]:
    """The config names the graph's inputs, all of them, and outputs of the graph, with their data types."""
    for graph in _graphs(subject):
        inputs, outputs = _inputs(graph), _tensors(graph.output)
        initial = {value.name for value in graph.initializer}
        taken = {tensor.name for tensor in subject.config.inputs} | _sequence_inputs(subject)
        for field, declared, there in (
            ("input", subject.config.inputs, inputs),
            ("output", subject.config.outputs, outputs),
        ):
            for tensor in declared:
                if tensor.name in there:
                    datatype = there[tensor.name].datatype
                    if datatype != tensor.datatype:
                        yield error(
                            f"{field} '{tensor.name}' is {tensor.datatype} here and {datatype} in the ONNX file",
                            "write the graph's data type",
                            field,
                            tensor.name,
                            "data_type",
                        )
                elif tensor.name not in initial:
                    yield error(
                        f"the ONNX file has no {field} '{tensor.name}'",
                        did_you_mean(tensor.name, there),
                        field,
                        tensor.name,
                        "name",
                    )
        if subject.config.inputs:
            for name in sorted(set(inputs) - taken):
                yield error(
                    f"the ONNX file wants input '{name}', which the config does not have",
                    "add it to the inputs, or drop all inputs and let Triton complete them",
                    "input",
                )


def onnx_dims_are_the_configs(subject: Subject) -> Iterator[Complaint]:
    """Inputs fit the graph's shapes, outputs are equal to them, and a model that batches has a free first dimension."""
    for graph in _graphs(subject):
        inputs, outputs = _inputs(graph), _tensors(graph.output)
        batch, why = _batch(subject, [*inputs.values(), *outputs.values()])
        for field, declared, there in (
            ("input", subject.config.inputs, inputs),
            ("output", subject.config.outputs, outputs),
        ):
            for tensor in declared:
                if tensor.name not in there or tensor.ragged:
                    continue
                shape = there[tensor.name].shape
                at = (field, tensor.name, "dims")
                if batch and shape[:1] != (-1,):
                    yield error(
                        f"max_batch_size is {batch}{why}, and {field} '{tensor.name}' of the ONNX file has the shape "
                        f"{list(shape)} without a free first dimension",
                        "export the model with a free batch dimension, or write max_batch_size: 0 and whole shapes",
                        *at,
                    )
                elif not _fits(_full(tensor, batch), shape, exactly=field == "output"):
                    yield error(
                        f"{field} '{tensor.name}' is {list(_full(tensor, batch))} here{_with_batch(batch, why)} and "
                        f"{list(shape)} in the ONNX file",
                        _fix(tensor, shape, batch, why),
                        *at,
                    )


def optional_inputs_do_not_batch(subject: Subject) -> Iterator[Complaint]:
    """An ONNX model that batches has no optional input: the backend cannot tell which requests gave it."""
    if subject.config.backend == "onnxruntime" and subject.config.max_batch_size > 0:
        for tensor in subject.config.inputs:
            if tensor.optional:
                yield error(
                    f"input '{tensor.name}' is optional in a model that batches",
                    "drop optional, or write max_batch_size: 0",
                    "input",
                    tensor.name,
                    "optional",
                )


def _batch(subject: Subject, tensors: Sequence[_GraphTensor]) -> tuple[int, str]:
    """The max_batch_size the model is loaded with, and how it came about where the file does not say."""
    config = subject.config
    if config.max_batch_size or (config.inputs and config.outputs):
        return config.max_batch_size, ""
    # Inputs or outputs are missing, so Triton completes the config, and takes a free first dimension for the batch.
    if all(tensor.shape[:1] == (-1,) for tensor in tensors):
        return _COMPLETED_BATCH, " (completed by Triton, since inputs or outputs are missing here)"
    return 0, ""


def _full(tensor: TensorSpec, batch: int) -> tuple[int, ...]:
    return (-1, *tensor.backend_dims) if batch else tensor.backend_dims


def _fits(here: Sequence[int], graph: Sequence[int], *, exactly: bool) -> bool:
    """Whether dims of the config fit a shape of the graph: a free dimension takes any, but an output says so itself."""
    if len(here) != len(graph):
        return False
    return all(have == want or (want == -1 and not exactly) for have, want in zip(here, graph, strict=True))


def _with_batch(batch: int, why: str) -> str:
    return f" with its batch dimension{why}" if batch else ""


def _fix(tensor: TensorSpec, shape: Sequence[int], batch: int, why: str) -> str:
    if why and len(tensor.backend_dims) == len(shape):
        return "declare inputs and outputs both, or write dims without the batch dimension and a max_batch_size"
    dims = list(shape[1:] if batch else shape)
    return f"write dims: {dims}"


def _graphs(subject: Subject) -> Iterator[onnx.GraphProto]:
    if subject.config.backend == "onnxruntime":
        for file in onnx_files(subject):
            model = read_onnx(file)
            if model is not None:
                yield model.graph


def _inputs(graph: onnx.GraphProto) -> Mapping[str, _GraphTensor]:
    """What a request must give: the graph's inputs without those that have an initial value."""
    initial = {value.name for value in graph.initializer}
    return {name: tensor for name, tensor in _tensors(graph.input).items() if name not in initial}


def _tensors(values: Sequence[onnx.ValueInfoProto]) -> Mapping[str, _GraphTensor]:
    return {value.name: _tensor(value.type.tensor_type) for value in values}


def _tensor(form: onnx.TypeProto.Tensor) -> _GraphTensor:
    name = onnx.TensorProto.DataType.Name(form.elem_type)
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in form.shape.dim)
    return _GraphTensor(_DATATYPES.get(name, name), shape)


def _sequence_inputs(subject: Subject) -> set[str]:
    batching = subject.config.message.sequence_batching
    return {control.name for control in batching.control_input} | {state.input_name for state in batching.state}


RULES: tuple[Rule, ...] = (onnx_tensors_are_the_configs, onnx_dims_are_the_configs, optional_inputs_do_not_batch)
