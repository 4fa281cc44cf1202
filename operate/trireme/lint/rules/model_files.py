"""Model files: whether they are whole, with their external data, and of a version that NGC's runtimes read.

Of TensorRT plans only the header is judged: TensorRT alone can read their inputs, outputs, profiles and GPU. Source of
its layout: NVIDIA's answer in TensorRT issue 3073: the version stands in bytes 24 to 27 of a plan.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from trireme.lint.finding import Complaint, error, warning
from trireme.lint.subject import Rule, Subject

# ONNX Runtime 1.19 of NGC's Triton 24.10 reads opsets and formats up to these.
NGC_OPSET, NGC_IR_VERSION = 21, 10
_DEFAULT_FILENAME = "model.onnx"
_PLAN_MAGIC = (b"ftrt", b"ptrt")
_PLAN_VERSION = slice(24, 28)
# TensorRT of NGC's Triton 24.10. A plan is bound to the version it was built with, unless it was built compatible.
NGC_TENSORRT = (10, 5)


def onnx_file_is_whole(subject: Subject) -> Iterator[Complaint]:
    """An ONNX file is complete and contains a graph."""
    for file in onnx_files(subject):
        model = read_onnx(file)
        if model is None or not model.graph.node:
            yield error("the file is no whole ONNX model", "export or copy it again", file=file)


def external_data_is_there(subject: Subject) -> Iterator[Complaint]:
    """The external weight files of an ONNX model exist beside it and are large enough."""
    for file in onnx_files(subject):
        needed: dict[str, int] = {}
        for location, end in _external_data(read_onnx(file)):
            needed[location] = max(end, needed.get(location, 0))
        for location, size in sorted(needed.items()):
            data = file.parent / location
            if not data.resolve().is_relative_to(file.parent.resolve()):
                yield error(
                    f"the weights are in {location}, outside the version's folder",
                    "save them beside the model",
                    file=file,
                )
            elif not data.is_file():
                yield error(f"the weights are in {location}, which is not there", "copy it beside the model", file=file)
            elif data.stat().st_size < size:
                yield error(
                    f"{location} has {data.stat().st_size} bytes, and the model reads {size}",
                    "copy it again",
                    file=file,
                )


def onnx_is_not_newer_than_ngc(subject: Subject) -> Iterator[Complaint]:
    """NGC's ONNX Runtime supports the opset and format of the ONNX file."""
    for file in onnx_files(subject):
        model = read_onnx(file)
        if model is None:
            continue
        opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        if opset > NGC_OPSET or model.ir_version > NGC_IR_VERSION:
            yield warning(
                f"opset {opset} and format {model.ir_version} are newer than NGC's runtime reads "
                f"({NGC_OPSET} and {NGC_IR_VERSION})",
                f"export it with opset {NGC_OPSET} or older",
                file=file,
            )


def plan_is_of_this_tensorrt(subject: Subject) -> Iterator[Complaint]:
    """A TensorRT plan was built with the TensorRT of NGC's image."""
    if subject.folder is None or subject.backend != "tensorrt":
        return
    for version in subject.versions():
        file = subject.folder.version_dir(version) / subject.config.model_filename
        if not file.is_file():
            continue
        with file.open("rb") as plan:
            header = plan.read(_PLAN_VERSION.stop)
        if len(header) < _PLAN_VERSION.stop or not header.startswith(_PLAN_MAGIC):
            yield warning("the file does not begin like a TensorRT plan", "build it again with trtexec", file=file)
        elif tuple(header[_PLAN_VERSION])[:2] != NGC_TENSORRT:
            built, ours = ".".join(map(str, header[_PLAN_VERSION])), ".".join(map(str, NGC_TENSORRT))
            yield warning(
                f"the plan was built with TensorRT {built}, and NGC's image has {ours}",
                f"build it again with TensorRT {ours}, or with --versionCompatible",
                file=file,
            )


def onnx_files(subject: Subject) -> Iterator[Path]:
    """The ONNX file of every version that Triton loads."""
    if subject.folder is None:
        return
    for version in subject.versions():
        file = subject.folder.version_dir(version) / (subject.config.model_filename or _DEFAULT_FILENAME)
        if file.suffix == ".onnx" and file.is_file():
            yield file


def read_onnx(file: Path) -> onnx.ModelProto | None:
    """The model without its external data; nothing if the file is none."""
    return _read(file, file.stat().st_mtime_ns)


# Several rules look at one file.
@functools.lru_cache(maxsize=4)
def _read(file: Path, _modified_ns: int) -> onnx.ModelProto | None:
    try:
        return onnx.load(str(file), load_external_data=False)
    except DecodeError:
        return None


def _external_data(message: Message | None) -> Iterator[tuple[str, int]]:
    """Where tensors of a model, of its nodes and their subgraphs keep their data: file, and first byte after it."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            fields = {entry.key: entry.value for entry in message.external_data}
            yield fields.get("location", ""), int(fields.get("offset", 0)) + int(fields.get("length", 0))
    elif message is not None:
        for field, value in message.ListFields():
            if field.message_type is not None:
                for inner in value if field.is_repeated else (value,):
                    yield from _external_data(inner)


RULES: tuple[Rule, ...] = (
    onnx_file_is_whole,
    external_data_is_there,
    onnx_is_not_newer_than_ngc,
    plan_is_of_this_tensorrt,
)
