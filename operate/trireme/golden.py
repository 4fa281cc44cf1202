"""Golden samples: requests with right answers, kept beside the model in ``golden/<case>.json``.

A sample is a KServe v2 inference request and the outputs it must bring, so that curl can post the request as it is:

    {
      "request":   {"inputs":  [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}]},
      "response":  {"outputs": [{"name": "LABEL", "datatype": "BYTES", "shape": [1, 1], "data": ["positive"]}]},
      "tolerance": {"SCORE": {"absolute": 0.05}, "EMBEDDING": {"cosine": 0.98}}
    }

An output without a tolerance must be equal. ``cosine`` is the least cosine similarity of each row.

Source of the JSON form: the Open Inference Protocol (KServe v2), "Inference Request JSON Object".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme.errors import ConfigError
from trireme.repository import ModelFolder

Tensors = Mapping[str, npt.NDArray[Any]]

# Open Inference Protocol datatypes; BYTES is held as an object array of bytes.
_DTYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64,
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "BYTES": np.object_,
}  # fmt: skip


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
    return [_read(path) for path in sorted(folder.golden_dir.glob("*.json"))]


def _read(path: Path) -> GoldenSample:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return GoldenSample(
            case=path.stem,
            inputs={tensor["name"]: _array(tensor) for tensor in document["request"]["inputs"]},
            outputs={tensor["name"]: _array(tensor) for tensor in document["response"]["outputs"]},
            parameters=document["request"].get("parameters", {}),
            tolerance={name: Tolerance(**fields) for name, fields in document.get("tolerance", {}).items()},
        )
    except json.JSONDecodeError as error:
        raise ConfigError(path, f"not JSON: {error.msg}", line=error.lineno, column=error.colno) from error
    except (KeyError, TypeError, ValueError) as error:
        raise ConfigError(path, f"not a golden sample: {error!r}; the form is told in trireme/golden.py") from error


def _array(tensor: Mapping[str, Any]) -> npt.NDArray[Any]:
    data = tensor["data"]
    if tensor["datatype"] == "BYTES":
        data = [value.encode() for value in data]
    return np.array(data, dtype=_DTYPES[tensor["datatype"]]).reshape(tensor["shape"])


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
