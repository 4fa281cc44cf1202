"""The lint corpus: tiny repositories, half of them good, half bad, each with the expected findings.

A case is a file ``good/<model>.toml`` or ``bad/<model>.toml``, named after the model under test.

    about    = "what is right or wrong"
    rules    = ["..."]           rules of all expected errors; bad cases only
    warnings = ["..."]           rules of expected warnings; others are allowed
    ngc_only = true              the embedded server rejects it, NGC's image accepts it; good cases only
    disagrees = "why"            the embedded server disagrees with lint, and why lint does not follow it
    breaks_server = true         the server hangs or crashes when it loads the model
    machine_gpus = 0             number of GPUs of the machine; default: 0
    config   = '''...'''         config.pbtxt of the model under test
    folders  = ["1"]             its version folders; default: ["1"]
    [models.<name>]              more models: config, folders
    [files]                      more files: path in the repository = text
    [onnx."<path>"]              an ONNX file: inputs and outputs, name = "FP32[-1,4]"; truncated = true truncates it
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import TensorProto, helper

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent
_KEYS = {
    *("about", "rules", "warnings", "ngc_only", "disagrees", "breaks_server", "machine_gpus"),
    *("config", "folders", "models", "files", "onnx"),
}
_ELEMENT = {"FP32": TensorProto.FLOAT, "INT64": TensorProto.INT64, "INT32": TensorProto.INT32}


@dataclass(frozen=True, slots=True)
class Case:
    """One case: ``good`` from its folder, the other fields from its file."""

    model: str
    good: bool
    about: str
    rules: tuple[str, ...]
    warnings: tuple[str, ...]
    ngc_only: bool
    disagrees: str
    breaks_server: bool
    machine_gpus: int
    document: Mapping[str, Any]

    def write(self, repository: Path) -> Path:
        """Write the case's models to ``repository``; return the folder of the model under test."""
        document = self.document
        models = {self.model: document, **document.get("models", {})}
        for name, model in models.items():
            if "config" in model:
                _put(repository / name / "config.pbtxt", model["config"])
            for folder in model.get("folders", ["1"]):
                (repository / name / folder).mkdir(parents=True)
        for path, text in document.get("files", {}).items():
            _put(repository / path, text)
        for path, graph in document.get("onnx", {}).items():
            data = _onnx(graph["inputs"], graph["outputs"])
            _put(repository / path, data[: len(data) // 2] if graph.get("truncated") else data)
        return repository / self.model


def all_cases() -> list[Case]:
    """Every case of the corpus, by name."""
    return [_read(path) for path in sorted(_FOLDER.glob("*/*.toml"), key=lambda path: path.stem)]


def _read(path: Path) -> Case:
    document = tomllib.loads(path.read_text(encoding="utf-8"))
    if unknown := set(document) - _KEYS:
        raise ValueError(f"{path}: unknown keys {unknown}")
    return Case(
        model=path.stem,
        good=path.parent.name == "good",
        about=document["about"],
        rules=tuple(document.get("rules", ())),
        warnings=tuple(document.get("warnings", ())),
        ngc_only=document.get("ngc_only", False),
        disagrees=document.get("disagrees", ""),
        breaks_server=document.get("breaks_server", False),
        machine_gpus=document.get("machine_gpus", 0),
        document=document,
    )


def _put(path: Path, content: str | bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def _onnx(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """A graph whose outputs are zeros; their first dimension is that of the first input."""
    first = next(iter(inputs))
    nodes = [
        helper.make_node("Shape", [first], ["_shape"]),
        helper.make_node("Gather", ["_shape", "_zero"], ["_rows"], axis=0),
    ]
    initial = [helper.make_tensor("_zero", TensorProto.INT64, [1], [0])]
    for name, spec in outputs.items():
        element, dims = _parse_tensor(spec)
        rest = [1 if dim == -1 else dim for dim in dims[1:]]
        initial.append(helper.make_tensor(f"{name}_rest", TensorProto.INT64, [len(rest)], rest))
        nodes.append(helper.make_node("Concat", ["_rows", f"{name}_rest"], [f"{name}_shape"], axis=0))
        value = helper.make_tensor("value", element, [1], [0])
        nodes.append(helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=value))
    graph = helper.make_graph(
        nodes, "case", [_info(*item) for item in inputs.items()], [_info(*item) for item in outputs.items()], initial
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def _parse_tensor(spec: str) -> tuple[int, list[int]]:
    element, _, dims = spec.rstrip("]").partition("[")
    return _ELEMENT[element], [int(dim) for dim in dims.split(",")]


def _info(name: str, spec: str) -> Any:
    element, dims = _parse_tensor(spec)
    return helper.make_tensor_value_info(
        name, element, [f"{name}_{axis}" if dim == -1 else dim for axis, dim in enumerate(dims)]
    )
