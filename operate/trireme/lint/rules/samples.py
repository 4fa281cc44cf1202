"""Samples: warm-up requests, which Triton runs before a model is ready, and golden samples, which it does not read.

Source of the rules: triton core, ``TritonModelInstance::GenerateWarmupData`` and ``InferenceRequest::Normalize``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2

from trireme.errors import ConfigError
from trireme.lint.finding import Complaint, error, warning
from trireme.lint.subject import Rule, Subject
from trireme.repository.config_source import nearest
from trireme.repository.golden import golden_paths, read_golden

# Without BYTES: each string in a file is a 4-byte length followed by its content.
_BYTES = {"BOOL": 1, "UINT8": 1, "INT8": 1, "UINT16": 2, "INT16": 2, "FP16": 2, "BF16": 2,
          "UINT32": 4, "INT32": 4, "FP32": 4, "UINT64": 8, "INT64": 8, "FP64": 8}  # fmt: skip


def warmup_runs(subject: Subject) -> Iterator[Complaint]:
    """A warm-up sample has a batch size, no larger than the model's; without one Triton skips it silently."""
    limit = max(subject.config.max_batch_size, 1)
    for index, sample in enumerate(subject.config.message.model_warmup):
        at = ("model_warmup", index, "batch_size")
        if sample.batch_size == 0:
            yield warning(f"warm-up '{sample.name}' never runs because its batch_size is 0", "set batch_size: 1", *at)
        elif sample.batch_size > limit:
            yield error(
                f"warm-up '{sample.name}' has batch_size {sample.batch_size}, but the model's limit is {limit}",
                f"set batch_size: {limit}",
                *at,
            )


def warmup_names_the_inputs(subject: Subject) -> Iterator[Complaint]:
    """A warm-up sample has all required inputs of the model, and no others."""
    declared = {tensor.name: tensor for tensor in subject.config.inputs}
    controls = {control.name for control in subject.config.message.sequence_batching.control_input}
    # The backend completes a config without inputs at load time.
    if not declared:
        return
    for index, sample in _running_samples(subject):
        for name, tensor in declared.items():
            if name not in sample.inputs and not tensor.optional:
                typo = nearest(name, set(sample.inputs) - set(declared))
                fix = f"rename key '{typo}' to '{name}'" if typo else f'add inputs {{ key: "{name}" value {{ ... }} }}'
                yield error(f"warm-up '{sample.name}' has no input '{name}'", fix, "model_warmup", index)
        for name in sorted(set(sample.inputs) - set(declared) - controls):
            yield warning(
                f"warm-up '{sample.name}' has input '{name}', but the model does not",
                f"available: {', '.join(declared)}",
                "model_warmup",
                index,
                "inputs",
                name,
            )


def warmup_inputs_fit(subject: Subject) -> Iterator[Complaint]:
    """A warm-up input has the data type and shape of the model's input, without variable dimensions."""
    declared = {tensor.name: tensor for tensor in subject.config.inputs}
    for index, sample in _running_samples(subject):
        for name, given in sample.inputs.items():
            about = f"warm-up '{sample.name}', input '{name}'"
            at = ("model_warmup", index, "inputs", name, "value")
            if any(dim < 0 for dim in given.dims):
                yield error(
                    f"{about}: dims {list(given.dims)} are variable", "set the shape of the sample", *at, "dims"
                )
                continue
            tensor = declared.get(name)
            if tensor is None:
                continue
            datatype = _datatype(given)
            if datatype != tensor.datatype:
                yield error(
                    f"{about} is {datatype}, but the model's input is {tensor.datatype}",
                    f"set data_type: TYPE_{'STRING' if tensor.datatype == 'BYTES' else tensor.datatype}",
                    *at,
                    "data_type",
                )
            if len(given.dims) != len(tensor.dims) or any(
                expected not in (-1, actual) for actual, expected in zip(given.dims, tensor.dims, strict=True)
            ):
                batch = ", without the batch dimension" if subject.config.max_batch_size else ""
                yield error(
                    f"{about} has dims {list(given.dims)}, but the model's input has {list(tensor.dims)}",
                    f"set dims that match the input{batch}",
                    *at,
                    "dims",
                )


def warmup_data_is_there(subject: Subject) -> Iterator[Complaint]:
    """A warm-up input names the source of its data, and a data file is large enough."""
    for index, sample in _running_samples(subject):
        for name, given in sample.inputs.items():
            about = f"warm-up '{sample.name}', input '{name}'"
            at = ("model_warmup", index, "inputs", name, "value")
            source = given.WhichOneof("input_data_type")
            if source is None:
                yield error(f"{about} has no data", "set zero_data: true, random_data: true or input_data_file", *at)
            elif source == "input_data_file" and subject.folder and not subject.is_unexported:
                yield from _file(about, given, subject.folder.warmup_dir / given.input_data_file, at)


def _file(about: str, given: Any, file: Path, at: tuple[str | int, ...]) -> Iterator[Complaint]:
    if not file.is_file():
        yield error(f"{about}: {file} is missing", "add the file", *at, "input_data_file")
        return
    size = _BYTES.get(_datatype(given))
    if size is None or any(dim < 0 for dim in given.dims):
        return
    needed, actual = size * math.prod(given.dims), file.stat().st_size
    if actual < needed:
        yield error(
            f"{about} needs {needed} bytes, {file} has {actual}",
            "write all values of one row to the file",
            *at,
            "input_data_file",
        )


def _running_samples(subject: Subject) -> Iterator[tuple[int, Any]]:
    """The samples that Triton runs: it skips batch size 0, and rejects samples of ensembles."""
    if not subject.config.is_ensemble:
        for index, sample in enumerate(subject.config.message.model_warmup):
            if sample.batch_size:
                yield index, sample


def _datatype(given: Any) -> str:
    name = model_config_pb2.DataType.Name(given.data_type).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name


def golden_samples_are_readable(subject: Subject) -> Iterator[Complaint]:
    """Every file of ``golden/`` is a golden sample: a KServe request whose data match its shapes, and the response."""
    for path in golden_paths(subject.folder) if subject.folder else ():
        try:
            read_golden(path)
        except ConfigError as invalid:
            # A release prints this message without the finding's path.
            message = str(invalid).removeprefix(f"{path.parent.parent}/")
            yield error(message, "fix or remove the file", file=path)


RULES: tuple[Rule, ...] = (
    warmup_runs,
    warmup_names_the_inputs,
    warmup_inputs_fit,
    warmup_data_is_there,
    golden_samples_are_readable,
)
