"""Models of the onnxruntime backend: the backend's own checks, and the ONNX graph compared with the config.

Source of the rules: ``trireme_backends.onnxruntime_rules`` and ``onnxruntime_signature``, which the embedded backend
applies on load and which follow NGC's backend.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import onnx
from google.protobuf import json_format
from trireme_backends.errors import ModelError
from trireme_backends.onnxruntime_rules import embedded_problems, embedded_warnings, problems
from trireme_backends.onnxruntime_signature import GraphTensor, Signature, complete, signature_problems

from trireme.lint.finding import Complaint, Severity
from trireme.lint.rules.model_files import onnx_files, read_onnx
from trireme.lint.subject import Rule, Subject

_BACKEND = "onnxruntime"
# Triton's data types that are not ONNX's name prefixed with TYPE_.
_DATA_TYPES = {"FLOAT": "TYPE_FP32", "DOUBLE": "TYPE_FP64", "FLOAT16": "TYPE_FP16"}
_UNKNOWN_TYPES = {"UNDEFINED", "BFLOAT16", "COMPLEX64", "COMPLEX128"}


def onnxruntime_takes_the_config(subject: Subject) -> Iterator[Complaint]:
    """The onnxruntime backend supports the platform, parameters, accelerators and kinds of inputs."""
    if subject.backend == _BACKEND:
        for message in problems(_json(subject)):
            yield _complaint(Severity.ERROR, message)


def embedded_onnxruntime_takes_the_config(subject: Subject) -> Iterator[Complaint]:
    """The embedded server's onnxruntime backend supports the configuration; the native one supports more."""
    if subject.backend == _BACKEND:
        for message in embedded_problems(_json(subject)):
            yield _complaint(Severity.NGC_ONLY, message)
        for message in embedded_warnings(_json(subject)):
            yield _complaint(Severity.WARNING, message, "remove it, or use NGC's image to serve the model")


def onnx_tensors_are_the_configs(subject: Subject) -> Iterator[Complaint]:
    """The config's inputs and outputs match the graph: names, data types, and shapes with the batch dimension."""
    if subject.backend != _BACKEND:
        return
    config = _json(subject)
    for file in onnx_files(subject):
        model = read_onnx(file)
        if model is None:
            continue
        try:
            signature = _signature(model.graph)
            messages = signature_problems(_completed(config, signature), signature)
        except ModelError as error:
            messages = [str(error)]
        for message in messages:
            yield _complaint(Severity.ERROR, message)


def _completed(config: Mapping[str, Any], signature: Signature) -> Mapping[str, Any]:
    """The config as Triton loads it: missing inputs and outputs completed, state inputs added."""
    if not (config.get("input") and config.get("output")):
        added = complete(config, signature)
        config = {**config, "max_batch_size": added.max_batch_size, "input": added.inputs, "output": added.outputs}
    states = config.get("sequence_batching", {}).get("state", [])
    return {**config, "input": [*config["input"], *({**state, "name": state["input_name"]} for state in states)]}


def _signature(graph: onnx.GraphProto) -> Signature:
    initial = {value.name for value in graph.initializer}
    inputs = [_tensor(value) for value in graph.input]
    return Signature(
        inputs=tuple(tensor for tensor in inputs if tensor.name not in initial),
        optional_inputs=tuple(tensor for tensor in inputs if tensor.name in initial),
        outputs=tuple(_tensor(value) for value in graph.output),
    )


def _tensor(value: onnx.ValueInfoProto) -> GraphTensor:
    tensor_type = value.type.tensor_type
    name = onnx.TensorProto.DataType.Name(tensor_type.elem_type)
    if name in _UNKNOWN_TYPES:
        raise ModelError(f"tensor '{value.name}' of the graph has the data type {name}, which Triton does not support")
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor_type.shape.dim)
    return GraphTensor(value.name, _DATA_TYPES.get(name, f"TYPE_{name}"), shape)


def _complaint(severity: Severity, message: str, default_fix: str = "make the config match the graph") -> Complaint:
    """A message of the backend, split into problem and fix, at the tensor or field that it names."""
    problem, _, fix = message.partition("; ")
    return Complaint(severity, problem, fix or default_fix, _place(message))


def _place(message: str) -> tuple[str, ...]:
    if named := re.search(r"\b(input|output) '([^']*)'", message):
        return (named[1], named[2])
    if named := re.match(r"parameters: (\S+)", message):
        return ("parameters", named[1])
    if named := re.search(r"\b([cg]pu_execution_accelerator) '([^']*)'", message):
        return ("optimization", "execution_accelerators", named[1], named[2])
    word = re.match(r"\w+", message)
    return (word[0],) if word else ()


def _json(subject: Subject) -> Mapping[str, Any]:
    """The config as Triton passes it to a backend: including unset fields."""
    config: Mapping[str, Any] = json_format.MessageToDict(
        subject.config.message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return config


RULES: tuple[Rule, ...] = (
    onnxruntime_takes_the_config,
    embedded_onnxruntime_takes_the_config,
    onnx_tensors_are_the_configs,
)
