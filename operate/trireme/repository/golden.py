"""Golden samples: requests with expected responses, in the model folder's ``golden/<case>.json``.

A sample is a KServe v2 inference request and its expected outputs; curl can send the request unchanged:

    {
      "request":   {"inputs":  [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}]},
      "response":  {"outputs": [{"name": "LABEL", "datatype": "BYTES", "shape": [1, 1], "data": ["positive"]}]},
      "tolerance": {"SCORE": {"absolute": 0.05}, "EMBEDDING": {"cosine": 0.98}}
    }

``data`` is a flat list or nested lists in row-major order. An output without a tolerance must be equal. ``cosine`` is
the minimum cosine similarity of each row.

Source of the JSON format: the Open Inference Protocol (KServe v2), "Inference Request JSON Object".
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field

from trireme.documents import read_json
from trireme.errors import ConfigError
from trireme.repository.folders import ModelFolder

Tensors = Mapping[str, npt.NDArray[Any]]

_Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]  # fmt: skip
# Open Inference Protocol datatypes; a BYTES tensor is an object array of bytes.
_DTYPES: dict[_Datatype, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip
# The Python types of JSON values by numpy kind.
_JSON_KINDS: dict[str, tuple[type, ...]] = {
    "b": (bool,), "i": (int,), "u": (int,), "f": (int, float), "O": (str,)
}  # fmt: skip
# Request, response and tensor may have other fields of the protocol, such as id.
_OPEN = ConfigDict(extra="ignore", strict=True)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Allowed deviation of an output from the expected one; exactly one field is set."""

    absolute: float | None = None
    cosine: float | None = None

    def __post_init__(self) -> None:
        if (self.absolute is None) == (self.cosine is None):
            raise ValueError("set exactly one of absolute, cosine")


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """One request and its expected response.

    Attributes:
        case: the file name without extension.
        inputs, outputs: tensors by name, batch dimension included; BYTES as object arrays of ``bytes``.
        parameters: request parameters (str, int, bool).
        tolerance: by output name; without one, the output must be equal.
    """

    case: str
    inputs: Tensors
    outputs: Tensors
    parameters: Mapping[str, str | int | bool]
    tolerance: Mapping[str, Tolerance]

    def differences(self, actual: Tensors) -> list[str]:
        """One message for each output of ``actual`` that differs from the expected one."""
        messages = []
        for name, expected in self.outputs.items():
            if name not in actual:
                messages.append(f"{self.case}: output {name} is missing")
                continue
            problem = _difference(expected, actual[name], self.tolerance.get(name))
            if problem:
                messages.append(f"{self.case}: output {name}: {problem}")
        return messages


def load_golden(folder: ModelFolder) -> list[GoldenSample]:
    """Every golden sample of a model, sorted by case name.

    Raises:
        ConfigError: a file does not match the format above.
    """
    return [read_golden(path) for path in golden_paths(folder)]


def golden_paths(folder: ModelFolder) -> list[Path]:
    """The files of a model's golden samples, sorted by case name."""
    return sorted(folder.golden_dir.glob("*.json"))


def read_golden(path: Path) -> GoldenSample:
    """One golden sample.

    Raises:
        ConfigError: the file does not match the format above; the message names each invalid field.
    """
    try:
        sample = read_json(_Sample, path, fix=f"see the format in operate/{__name__.replace('.', '/')}.py")
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror}); make it readable for this user") from error
    return GoldenSample(
        case=path.stem,
        inputs={tensor.name: tensor.array() for tensor in sample.request.inputs},
        outputs={tensor.name: tensor.array() for tensor in sample.response.outputs},
        parameters=sample.request.parameters,
        tolerance=sample.tolerance,
    )


@dataclass(frozen=True, slots=True)
class _Tensor:
    __pydantic_config__ = _OPEN
    name: str
    datatype: _Datatype
    shape: list[Annotated[int, Field(ge=0)]]
    data: list[Any]

    def __post_init__(self) -> None:
        self.array()

    def array(self) -> npt.NDArray[Any]:
        """``data`` as an array. Raises ValueError if it does not match the shape or the data type."""
        dtype = np.dtype(_DTYPES[self.datatype])
        values = list(_flat(self.data))
        if len(values) != math.prod(self.shape):
            raise ValueError(
                f"data of {self.name} has {len(values)} values, but shape {self.shape} needs {math.prod(self.shape)}"
            )
        for value in values:
            if not isinstance(value, _JSON_KINDS[dtype.kind]) or (isinstance(value, bool) and dtype.kind != "b"):
                raise ValueError(f"data of {self.name} contains {value!r:.60}, which is not a value of {self.datatype}")
        if dtype.kind == "O":
            values = [value.encode() for value in values]
        elif values and dtype.kind in "iu":
            limits = np.iinfo(dtype)
            if min(values) < limits.min or max(values) > limits.max:
                raise ValueError(
                    f"data of {self.name} contains a value outside {limits.min} to {limits.max} ({self.datatype})"
                )
        return np.array(values, dtype=dtype).reshape(self.shape)


@dataclass(frozen=True, slots=True)
class _Request:
    __pydantic_config__ = _OPEN
    inputs: list[_Tensor]
    parameters: Mapping[str, str | int | bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Response:
    __pydantic_config__ = _OPEN
    outputs: list[_Tensor]


@dataclass(frozen=True, slots=True)
class _Sample:
    request: _Request
    response: _Response
    tolerance: Mapping[str, Tolerance] = field(default_factory=dict)


def _flat(data: list[Any]) -> Iterator[Any]:
    for value in data:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _difference(expected: npt.NDArray[Any], actual: npt.NDArray[Any], tolerance: Tolerance | None) -> str | None:
    if expected.shape != actual.shape:
        return f"shape {list(actual.shape)}, expected {list(expected.shape)}"
    if expected.dtype != actual.dtype:
        return f"dtype {actual.dtype}, expected {expected.dtype}"
    if tolerance is None or expected.dtype == np.object_:
        return (
            None
            if np.array_equal(expected, actual)
            else f"{actual.tolist()!r:.200}, expected {expected.tolist()!r:.200}"
        )
    if tolerance.cosine is not None:
        lengths = np.linalg.norm(expected, axis=-1) * np.linalg.norm(actual, axis=-1)
        lowest = float(np.min(np.sum(expected * actual, axis=-1) / np.maximum(lengths, 1e-12)))
        return None if lowest >= tolerance.cosine else f"cosine {lowest:.4f}, expected at least {tolerance.cosine}"
    furthest = float(np.max(np.abs(expected.astype(np.float64) - actual.astype(np.float64)), initial=0.0))
    allowed = tolerance.absolute or 0.0
    return None if furthest <= allowed else f"off by {furthest:.4g}, allowed {allowed}"
