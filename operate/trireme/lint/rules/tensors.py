"""Inputs and outputs: names, types, dimensions, reshapes.

Source of the rules: triton core, ``ValidateModelInput``, ``ValidateModelOutput`` and ``ValidateBatchIO``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from tritonclient.grpc import model_config_pb2

from trireme.lint.finding import Complaint, error, warning
from trireme.lint.subject import Rule, Subject
from trireme.repository.model_config import TensorSpec


def tensors_are_complete(subject: Subject) -> Iterator[Complaint]:
    """Every input and output has a name, a data type and dims."""
    for field, index, tensor in _tensors(subject):
        if not tensor.name:
            yield error(f"{field} {index} has no name", 'add name: "..."', field, index)
            continue
        if tensor.datatype == "INVALID":
            yield error(
                f"{field} '{tensor.name}' has no data type", "add data_type: TYPE_...", field, index, "data_type"
            )
        if not tensor.dims:
            batch = " without the batch dimension" if subject.config.max_batch_size else ""
            yield error(f"{field} '{tensor.name}' has no dims", f"add dims: [ ... ]{batch}", field, index, "dims")


def dims_are_positive_or_variable(subject: Subject) -> Iterator[Complaint]:
    """A dimension is 1 or more, or -1 for variable; the same holds for a reshape."""
    for field, index, tensor in _tensors(subject):
        for label, dims in (("dims", tensor.dims), ("reshape", tensor.reshape or ())):
            for dim in dims:
                if dim < 1 and dim != -1:
                    yield error(
                        f"{field} '{tensor.name}' has the dimension {dim} in {label}",
                        "use a number from 1, or -1 for a variable dimension",
                        field, index, label,
                    )  # fmt: skip


def reshape_keeps_the_elements(subject: Subject) -> Iterator[Complaint]:
    """A reshape has as many elements as the dims, also between variable dimensions."""
    for field, index, tensor in _tensors(subject):
        if tensor.reshape is None or any(dim < 1 and dim != -1 for dim in (*tensor.dims, *tensor.reshape)):
            continue
        if not tensor.reshape and subject.config.max_batch_size == 0:
            yield error(
                f"{field} '{tensor.name}' is reshaped to a scalar, but the model does not batch",
                "set reshape: { shape: [ 1 ] }, or remove reshape",
                field, index, "reshape",
            )  # fmt: skip
        elif _segment_sizes(tensor.dims) != _segment_sizes(tensor.reshape):
            yield error(
                f"{field} '{tensor.name}' cannot be reshaped from {list(tensor.dims)} to {list(tensor.reshape)}",
                "use the same number of elements, and the variable dimensions in the same order",
                field, index, "reshape",
            )  # fmt: skip


def _segment_sizes(dims: Sequence[int]) -> list[int]:
    """The number of elements of each run of fixed dimensions between variable ones."""
    runs: list[list[int]] = [[]]
    for dim in dims:
        if dim == -1:
            runs.append([])
        else:
            runs[-1].append(dim)
    return [math.prod(run) for run in runs]


def image_formats_have_three_dims(subject: Subject) -> Iterator[Complaint]:
    """An input of format NHWC or NCHW has three dims."""
    for index, tensor in enumerate(subject.config.message.input):
        if tensor.format != model_config_pb2.ModelInput.FORMAT_NONE and len(tensor.dims) != 3:
            yield error(
                f"input '{tensor.name}' has an image format and {len(tensor.dims)} dims",
                "set three dims without the batch dimension, or remove format",
                "input", index, "format",
            )  # fmt: skip


def special_tensors_are_for_tensorrt(subject: Subject) -> Iterator[Complaint]:
    """Only TensorRT models have shape tensors and non-linear formats."""
    if subject.backend == "tensorrt":
        return
    for field in ("input", "output"):
        for index, tensor in enumerate(getattr(subject.config.message, field)):
            for flag in ("is_shape_tensor", "is_non_linear_format_io"):
                if getattr(tensor, flag):
                    yield error(
                        f"{field} '{tensor.name}' sets {flag}, which only TensorRT models support",
                        "remove the line",
                        field,
                        index,
                        flag,
                    )


def tensor_names_are_unique(subject: Subject) -> Iterator[Complaint]:
    """Input names are unique, and output names are unique: Triton silently keeps one of two equal names."""
    for field, tensors in (("input", subject.config.inputs), ("output", subject.config.outputs)):
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if name and count > 1:
                yield warning(f"{count} {field}s are named '{name}'", "use unique names", field, name)


def label_files_are_there(subject: Subject) -> Iterator[Complaint]:
    """A ``label_filename`` names a file of the model's folder."""
    if subject.folder is None:
        return
    for index, output in enumerate(subject.config.message.output):
        file = subject.folder.path / output.label_filename
        if output.label_filename and not file.is_file():
            yield error(
                f"label_filename of output '{output.name}' is '{output.label_filename}', which does not exist",
                f"add the file to {subject.folder.path}",
                "output",
                index,
                "label_filename",
            )


def batch_tensors_fit(subject: Subject) -> Iterator[Complaint]:
    """``batch_input`` and ``batch_output`` name tensors of the model and have a type that Triton creates."""
    message = subject.config.message
    inputs = {tensor.name for tensor in subject.config.inputs}
    outputs = {tensor.name for tensor in subject.config.outputs}
    for field in ("batch_input", "batch_output"):
        for index, batch in enumerate(getattr(message, field)):
            if len(batch.source_input) != 1:
                yield error(
                    f"{field} {index} has {len(batch.source_input)} source_input entries",
                    "set exactly one",
                    field,
                    index,
                    "source_input",
                )
            for name in batch.source_input:
                if name not in inputs:
                    yield error(
                        f"{field} {index} reads input '{name}', which the model does not have",
                        f"available: {', '.join(sorted(inputs)) or 'none'}",
                        field,
                        index,
                        "source_input",
                    )
    for index, batch in enumerate(message.batch_input):
        if batch.data_type not in (model_config_pb2.TYPE_INT32, model_config_pb2.TYPE_FP32):
            yield error(
                f"data_type of batch_input {index} is neither TYPE_INT32 nor TYPE_FP32",
                "set one of them",
                "batch_input",
                index,
                "data_type",
            )
    for index, batch in enumerate(message.batch_output):
        for name in batch.target_name:
            if name not in outputs:
                yield error(
                    f"batch_output {index} writes output '{name}', which the model does not have",
                    f"available: {', '.join(sorted(outputs)) or 'none'}",
                    "batch_output",
                    index,
                    "target_name",
                )


def _tensors(subject: Subject) -> Iterator[tuple[str, int, TensorSpec]]:
    for index, tensor in enumerate(subject.config.inputs):
        yield "input", index, tensor
    for index, tensor in enumerate(subject.config.outputs):
        yield "output", index, tensor


RULES: tuple[Rule, ...] = (
    tensors_are_complete,
    dims_are_positive_or_variable,
    reshape_keeps_the_elements,
    image_formats_have_three_dims,
    special_tensors_are_for_tensorrt,
    tensor_names_are_unique,
    label_files_are_there,
    batch_tensors_fit,
)
