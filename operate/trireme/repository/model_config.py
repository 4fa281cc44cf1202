"""A model's ``config.pbtxt``, parsed with Triton's protobuf into a typed ``ModelConfig``.

Other modules do not parse the text. Fields without an attribute are available in ``ModelConfig.message``.

Source of the fields: Triton's ``model_config.proto``, as tritonclient ships it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from trireme.errors import ConfigError
from trireme.repository.config_source import Node, Place, SyntaxProblem, read_source

# Triton completes `backend` from `platform` for these; source: AutoCompleteBackendFields in triton core.
_BACKEND_OF_PLATFORM = {
    "onnxruntime_onnx": "onnxruntime",
    "tensorrt_plan": "tensorrt",
    "tensorflow_savedmodel": "tensorflow",
    "tensorflow_graphdef": "tensorflow",
    "pytorch_libtorch": "pytorch",
    "ensemble": "ensemble",
}
# tritonclient's protobuf is newer than the server: Triton 24.10 rejects a config with these fields.
_NEWER_FIELDS = {"inference.ModelConfig.model_metrics", "inference.ModelEnsembling.max_inflight_requests"}
_DEFAULT_FILENAMES = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "python": "model.py",
    "pytorch": "model.pt",
}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output declared in the config.

    Attributes:
        datatype: Open Inference Protocol name, ``FP32``, ``INT64``, ``BYTES``, ...; ``INVALID`` if unset.
        dims: the shape without the batch dimension; -1 is variable.
        reshape: the shape that the backend sees, if it differs from ``dims``.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False

    @property
    def backend_dims(self) -> tuple[int, ...]:
        """The shape that the backend sees, without the batch dimension."""
        return self.dims if self.reshape is None else self.reshape


@dataclass(frozen=True, slots=True)
class EnsembleStep:
    """One model call of an ensemble. ``version`` is -1 for the latest.

    ``inputs`` maps model inputs to ensemble tensors, ``outputs`` model outputs to ensemble tensors.
    """

    model: str
    version: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """``kind`` is ``CPU``, ``GPU``, ``MODEL`` or ``AUTO``; ``count`` is 0 if the backend decides."""

    kind: str
    count: int
    gpus: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """The versions that Triton loads: the ``latest`` n, ``specific`` ones, or all if both are None."""

    latest: int | None = None
    specific: tuple[int, ...] | None = None

    def selects(self, available: Iterable[int]) -> list[int]:
        """The versions out of ``available`` that Triton loads, ascending."""
        versions = sorted(available)
        if self.specific is not None:
            return [version for version in versions if version in self.specific]
        return versions if self.latest is None else versions[max(0, len(versions) - self.latest) :]


@dataclass(frozen=True)
class ModelConfig:
    """One model's configuration.

    Attributes:
        path: the file it was read from.
        message: Triton's protobuf message, for the fields that have no attribute here.
        source: the place of each field in the file.

    Example:
        >>> config = load_model_config(Path("model_repository/embedding_premium/config.pbtxt"))
        >>> [step.model for step in config.steps]
    """

    path: Path
    message: model_config_pb2.ModelConfig
    source: Node

    @property
    def name(self) -> str:
        """The name in the file, else the folder's name, as in Triton."""
        return str(self.message.name) or self.path.parent.name

    @property
    def platform(self) -> str:
        return str(self.message.platform)

    @property
    def backend(self) -> str:
        """The backend as set, or as Triton derives it from platform or filename; ``ensemble`` for ensembles."""
        given = str(self.message.backend) or _BACKEND_OF_PLATFORM.get(self.platform, "")
        if given or self.platform:
            return given
        filename = str(self.message.default_model_filename)
        return next((backend for backend, default in _DEFAULT_FILENAMES.items() if default == filename), "")

    @property
    def is_ensemble(self) -> bool:
        return bool(self.message.HasField("ensemble_scheduling")) or self.platform == "ensemble"

    @property
    def is_decoupled(self) -> bool:
        """True if the model sends any number of responses per request (it streams)."""
        return bool(self.message.model_transaction_policy.decoupled)

    @property
    def max_batch_size(self) -> int:
        """0 if the model does not batch; its dims are then full shapes."""
        return int(self.message.max_batch_size)

    @cached_property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_tensor(tensor) for tensor in self.message.input)

    @cached_property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(_tensor(tensor) for tensor in self.message.output)

    @cached_property
    def steps(self) -> tuple[EnsembleStep, ...]:
        """The steps of an ensemble in the order of the file; empty for other models."""
        return tuple(
            EnsembleStep(step.model_name, step.model_version, dict(step.input_map), dict(step.output_map))
            for step in self.message.ensemble_scheduling.step
        )

    @cached_property
    def parameters(self) -> Mapping[str, str]:
        return {key: value.string_value for key, value in self.message.parameters.items()}

    @cached_property
    def instance_groups(self) -> tuple[InstanceGroup, ...]:
        kinds = model_config_pb2.ModelInstanceGroup.Kind
        return tuple(
            InstanceGroup(kinds.Name(group.kind).removeprefix("KIND_"), group.count, tuple(group.gpus))
            for group in self.message.instance_group
        )

    @property
    def version_policy(self) -> VersionPolicy:
        """The version policy; default: the latest version, as in Triton."""
        policy = self.message.version_policy
        if policy.HasField("specific"):
            return VersionPolicy(specific=tuple(policy.specific.versions))
        if policy.HasField("all"):
            return VersionPolicy()
        return VersionPolicy(latest=int(policy.latest.num_versions) or 1)

    @property
    def model_filename(self) -> str:
        """The file that Triton opens in a version directory; empty if the backend decides."""
        return str(self.message.default_model_filename) or _DEFAULT_FILENAMES.get(self.backend, "")

    def place(self, *path: str | int) -> Place:
        """The place of the field at ``path``, or of its innermost parent that exists."""
        return self.source.place_of(*path)


@dataclass(frozen=True, slots=True)
class ParsedConfig:
    """Result of parsing: a config, or all syntax errors."""

    config: ModelConfig | None
    problems: tuple[SyntaxProblem, ...]


def parse_model_config(data: bytes, path: Path) -> ParsedConfig:
    """Parse the content of a ``config.pbtxt``; ``path`` is not read. Reports all errors in the order of the file."""
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start]
        place = Place(before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1)
        return ParsedConfig(None, (SyntaxProblem(place, "not UTF-8 text", "save the file as UTF-8"),))
    message = model_config_pb2.ModelConfig()
    source, problems = read_source(text, message.DESCRIPTOR, _NEWER_FIELDS)
    if not problems:
        try:
            text_format.Parse(text, message)
        except text_format.ParseError as error:
            problems = [_from_protobuf(error)]
    if problems:
        return ParsedConfig(None, tuple(problems))
    return ParsedConfig(ModelConfig(path, message, source), ())


def load_model_config(path: Path) -> ModelConfig:
    """Read a ``config.pbtxt``.

    Raises:
        ConfigError: the file is invalid; the message has line, column, problem and fix.
        OSError: the file cannot be read.
    """
    parsed = parse_model_config(path.read_bytes(), path)
    if parsed.config is None:
        first = parsed.problems[0]
        raise ConfigError(path, f"{first.problem}; {first.fix}", line=first.place.line, column=first.place.column)
    return parsed.config


def _from_protobuf(error: text_format.ParseError) -> SyntaxProblem:
    # The message starts with the place, and for some errors with the quoted line.
    sentence = re.sub(r"^\d+:\d+ : ('.*': )?", "", str(error))
    place = Place(error.GetLine() or 1, error.GetColumn() or 1)
    return SyntaxProblem(place, sentence.rstrip("."), "see Triton's model_config.proto for the allowed values")


def _tensor(tensor: Any) -> TensorSpec:
    datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return TensorSpec(
        name=tensor.name,
        datatype="BYTES" if datatype == "STRING" else datatype,
        dims=tuple(tensor.dims),
        reshape=tuple(tensor.reshape.shape) if tensor.HasField("reshape") else None,
        # Only inputs may be optional.
        optional=bool(getattr(tensor, "optional", False)),
    )
