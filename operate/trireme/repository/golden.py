"""Golden samples: requests with right answers, kept beside the model in ``golden/<case>.json``.

A sample is a KServe v2 inference request and the outputs it must bring, so that curl can post the request as it is:

    {
      "request":   {"inputs":  [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}]},
      "response":  {"outputs": [{"name": "LABEL", "datatype": "BYTES", "shape": [1, 1], "data": ["positive"]}]},
      "tolerance": {"SCORE": {"absolute": 0.05}, "EMBEDDING": {"cosine": 0.98}}
    }

``data`` is flat or nested in lists, row by row, for every data type. An output without a tolerance must be equal.
``cosine`` is the least cosine similarity of each row.

Source of the JSON form: the Open Inference Protocol (KServe v2), "Inference Request JSON Object".
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from trireme.errors import ConfigError
from trireme.repository.folders import ModelFolder

Tensors = Mapping[str, npt.NDArray[Any]]

# Open Inference Protocol datatypes; BYTES is held as an object array of bytes.
_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip
# What JSON holds the values of a numpy kind as.
_JSON_KINDS: dict[str, tuple[type, ...]] = {
    "b": (bool,), "i": (int,), "u": (int,), "f": (int, float), "O": (str,)
}  # fmt: skip
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far an output may be from the golden one: exactly one of the two is set."""

    absolute: float | None = None
    cosine: float | None = None


@dataclass(frozen=True, slots=True)
class GoldenSample:
    """One request and its right answer.

    Attributes:
        case: the file's name without ending.
        inputs, outputs: tensors by name, batch dimension included; BYTES as object arrays of ``bytes``.
        parameters: request parameters (str, int, bool).
        tolerance: by output name; equality where absent.
    """

    case: str
    inputs: Tensors
    outputs: Tensors
    parameters: Mapping[str, str | int | bool]
    tolerance: Mapping[str, Tolerance]

    def differences(self, answer: Tensors) -> list[str]:
        """What is wrong with ``answer``, a sentence each; empty when it is right."""
        found = []
        for name, expected in self.outputs.items():
            if name not in answer:
                found.append(f"{self.case}: output {name} is missing")
                continue
            problem = _difference(expected, answer[name], self.tolerance.get(name))
            if problem:
                found.append(f"{self.case}: output {name}: {problem}")
        return found


def load_golden(folder: ModelFolder) -> list[GoldenSample]:
    """Every golden sample of a model, by case name.

    Raises:
        ConfigError: a file is not of the form above.
    """
    return [read_golden(path) for path in golden_paths(folder)]


def golden_paths(folder: ModelFolder) -> list[Path]:
    """The files of a model's golden samples, by case name."""
    return sorted(folder.golden_dir.glob("*.json"))


def read_golden(path: Path) -> GoldenSample:
    """One golden sample.

    Raises:
        ConfigError: the file is not of the form above; names the field.
    """
    try:
        document = _member(json.loads(path.read_text(encoding="utf-8")), "", dict, "a JSON object")
        request = _member(document.get("request"), "request", dict, "an object with the request")
        response = _member(document.get("response"), "response", dict, "an object with the outputs")
        return GoldenSample(
            case=path.stem,
            inputs=_tensors(request.get("inputs"), "request.inputs"),
            outputs=_tensors(response.get("outputs"), "response.outputs"),
            parameters=_parameters(request.get("parameters", {})),
            tolerance=_tolerances(document.get("tolerance", {})),
        )
    except json.JSONDecodeError as error:
        raise ConfigError(path, f"not JSON: {error.msg}", line=error.lineno, column=error.colno) from error
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"not UTF-8: byte {error.start}; save it as UTF-8") from error
    except RecursionError as error:
        raise ConfigError(path, "nested too deeply; write data flat, or nested as deep as its shape") from error
    except OSError as error:
        raise ConfigError(path, f"cannot be read ({error.strerror}); make it readable for this user") from error
    except _FieldError as error:
        raise ConfigError(
            path, f"not a golden sample: {error}; the format is described in operate/trireme/repository/golden.py"
        ) from error


class _FieldError(Exception):
    """A field of a golden sample is wrong: names it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field} {problem}" if field else f"it {problem}")


def _member(value: object, field: str, kind: type[_Kind], what: str) -> _Kind:
    if not isinstance(value, kind):
        raise _FieldError(field, f"must be {what}" if value is not None else f"is missing; it must be {what}")
    return value


def _parameters(value: object) -> Mapping[str, str | int | bool]:
    parameters = _member(value, "request.parameters", dict, "an object")
    for name, entry in parameters.items():
        if not isinstance(entry, str | int):
            raise _FieldError(f"request.parameters.{name}", "must be a string, an integer or a boolean")
    return parameters


def _tolerances(value: object) -> Mapping[str, Tolerance]:
    tolerances = {}
    for name, entry in _member(value, "tolerance", dict, "an object").items():
        field = f"tolerance.{name}"
        fields = _member(entry, field, dict, "an object")
        limit = next(iter(fields.values()), None)
        if not fields.keys() < {"absolute", "cosine"} or isinstance(limit, bool) or not isinstance(limit, int | float):
            raise _FieldError(field, 'must be {"absolute": NUMBER} or {"cosine": NUMBER}')
        tolerances[name] = Tolerance(**fields)
    return tolerances


def _tensors(value: object, field: str) -> Tensors:
    tensors = {}
    for number, entry in enumerate(_member(value, field, list, "a list of tensors")):
        tensor = _member(entry, f"{field}[{number}]", dict, "an object")
        name = _member(tensor.get("name"), f"{field}[{number}].name", str, "the tensor's name")
        tensors[name] = _array(tensor, f"{field}[{number}] ({name})")
    return tensors


def _array(tensor: Mapping[str, object], field: str) -> npt.NDArray[Any]:
    datatype = _member(tensor.get("datatype"), f"{field}: datatype", str, f"one of {', '.join(_DTYPES)}")
    if datatype not in _DTYPES:
        raise _FieldError(f"{field}: datatype", f"is {datatype!r}; it must be one of {', '.join(_DTYPES)}")
    shape = _member(tensor.get("shape"), f"{field}: shape", list, "a list of dimensions")
    if not all(isinstance(size, int) and not isinstance(size, bool) and size >= 0 for size in shape):
        raise _FieldError(f"{field}: shape", f"is {shape}; a dimension is 0 or a positive integer")
    values = list(_flat(_member(tensor.get("data"), f"{field}: data", list, "a list of values")))
    if len(values) != math.prod(shape):
        raise _FieldError(f"{field}: data", f"has {len(values)} values; shape {shape} takes {math.prod(shape)}")
    kinds = _JSON_KINDS[np.dtype(_DTYPES[datatype]).kind]
    for value in values:
        if not isinstance(value, kinds) or (isinstance(value, bool) and datatype != "BOOL"):
            raise _FieldError(f"{field}: data", f"holds {value!r:.60}, which is not a value of {datatype}")
    if datatype == "BYTES":
        values = [value.encode() for value in values]
    elif values and np.dtype(_DTYPES[datatype]).kind in "iu":
        limits = np.iinfo(_DTYPES[datatype])
        if min(values) < limits.min or max(values) > limits.max:
            raise _FieldError(f"{field}: data", f"holds a value outside {limits.min} to {limits.max} ({datatype})")
    return np.array(values, dtype=_DTYPES[datatype]).reshape(shape)


def _flat(data: list[Any]) -> Iterator[Any]:
    for value in data:
        if isinstance(value, list):
            yield from _flat(value)
        else:
            yield value


def _difference(expected: npt.NDArray[Any], answer: npt.NDArray[Any], tolerance: Tolerance | None) -> str | None:
    if expected.shape != answer.shape:
        return f"shape {list(answer.shape)}, expected {list(expected.shape)}"
    if expected.dtype != answer.dtype:
        return f"dtype {answer.dtype}, expected {expected.dtype}"
    if tolerance is None or expected.dtype == np.object_:
        return (
            None
            if np.array_equal(expected, answer)
            else f"{answer.tolist()!r:.200}, expected {expected.tolist()!r:.200}"
        )
    if tolerance.cosine is not None:
        lengths = np.linalg.norm(expected, axis=-1) * np.linalg.norm(answer, axis=-1)
        lowest = float(np.min(np.sum(expected * answer, axis=-1) / np.maximum(lengths, 1e-12)))
        return None if lowest >= tolerance.cosine else f"cosine {lowest:.4f}, expected at least {tolerance.cosine}"
    furthest = float(np.max(np.abs(expected.astype(np.float64) - answer.astype(np.float64)), initial=0.0))
    allowed = tolerance.absolute or 0.0
    return None if furthest <= allowed else f"off by {furthest:.4g}, allowed {allowed}"
