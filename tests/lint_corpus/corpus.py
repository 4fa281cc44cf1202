"""The lint corpus: tiny repositories, half of them good, half bad, each with what lint must say.

A case is a file ``good/<model>.toml`` or ``bad/<model>.toml``; its name is that of the model it judges.

    about    = "what is right or wrong here"
    rules    = ["..."]           errors that lint must give, by rule, and no others; bad cases only
    warnings = ["..."]           warnings that it must give, at least
    ngc_only = true              the embedded server refuses it and NGC's image does not; good cases only
    disagrees = "why"            the embedded server judges otherwise, and why lint does not follow it
    breaks_server = true         the server hangs or dies on loading it
    machine_gpus = 0             for a machine with that many GPUs (0 where not given)
    config   = '''...'''         config.pbtxt of the judged model
    folders  = ["1"]             its folders; this is the default
    [models.<name>]              further models: config, folders
    [files]                      further files: path in the repository = text
    [onnx."<path>"]              an ONNX file: inputs and outputs, name = "FP32[-1,4]"; truncated = true cuts it
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
    """One case; ``good`` is what the folder says, the other fields are those of the file."""

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
        """Make the case's models under ``repository``; give the folder of the judged one."""
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
    """A graph that gives each output as zeros of its shape, with the first dimension of the first input."""
    first = next(iter(inputs))
    nodes = [
        helper.make_node("Shape", [first], ["_shape"]),
        helper.make_node("Gather", ["_shape", "_zero"], ["_rows"], axis=0),
    ]
    initial = [helper.make_tensor("_zero", TensorProto.INT64, [1], [0])]
    for name, form in outputs.items():
        element, dims = _form(form)
        rest = [1 if dim == -1 else dim for dim in dims[1:]]
        initial.append(helper.make_tensor(f"{name}_rest", TensorProto.INT64, [len(rest)], rest))
        nodes.append(helper.make_node("Concat", ["_rows", f"{name}_rest"], [f"{name}_shape"], axis=0))
        value = helper.make_tensor("value", element, [1], [0])
        nodes.append(helper.make_node("ConstantOfShape", [f"{name}_shape"], [name], value=value))
    graph = helper.make_graph(
        nodes, "case", [_info(*item) for item in inputs.items()], [_info(*item) for item in outputs.items()], initial
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def _form(form: str) -> tuple[int, list[int]]:
    element, _, dims = form.rstrip("]").partition("[")
    return _ELEMENT[element], [int(dim) for dim in dims.split(",")]


def _info(name: str, form: str) -> Any:
    element, dims = _form(form)
    return helper.make_tensor_value_info(
        name, element, [f"{name}_{axis}" if dim == -1 else dim for axis, dim in enumerate(dims)]
    )
