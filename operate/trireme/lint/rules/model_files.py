"""Model files: completeness, external data, and versions that NGC's runtimes support.

Of a TensorRT plan only the header is checked: only TensorRT can read its inputs, outputs, profiles and GPU. Source of
the header's layout: NVIDIA's reply in TensorRT issue 3073: bytes 24 to 27 hold the version.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError, Message

from trireme.lint.finding import Complaint, error, warning
from trireme.lint.subject import Rule, Subject

# The latest opset and IR version that ONNX Runtime 1.19 in NGC's Triton 24.10 supports.
NGC_OPSET, NGC_IR_VERSION = 21, 10
_DEFAULT_FILENAME = "model.onnx"
_PLAN_MAGIC = (b"ftrt", b"ptrt")
_PLAN_VERSION = slice(24, 28)
# TensorRT in NGC's Triton 24.10. A plan runs only on the version it was built with, unless --versionCompatible is set.
NGC_TENSORRT = (10, 5)


def onnx_file_is_whole(subject: Subject) -> Iterator[Complaint]:
    """An ONNX file is complete and contains a graph."""
    for file in onnx_files(subject):
        model = read_onnx(file)
        if model is None or not model.graph.node:
            yield error("not a complete ONNX model", "export or copy the file again", file=file)


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
                    f"external data {location} is outside the version folder",
                    "save it in the model file's folder",
                    file=file,
                )
            elif not data.is_file():
                yield error(f"external data {location} is missing", "copy it to the model file's folder", file=file)
            elif data.stat().st_size < size:
                yield error(
                    f"external data {location} has {data.stat().st_size} bytes, the model needs {size}",
                    "copy it again",
                    file=file,
                )


def onnx_is_not_newer_than_ngc(subject: Subject) -> Iterator[Complaint]:
    """NGC's ONNX Runtime supports the opset and IR version of the ONNX file."""
    for file in onnx_files(subject):
        model = read_onnx(file)
        if model is None:
            continue
        opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        if opset > NGC_OPSET or model.ir_version > NGC_IR_VERSION:
            yield warning(
                f"opset {opset} with IR version {model.ir_version} is too new for NGC's ONNX Runtime, which supports "
                f"up to {NGC_OPSET} and {NGC_IR_VERSION}",
                f"export the model with opset {NGC_OPSET} or lower",
                file=file,
            )


def plan_is_of_this_tensorrt(subject: Subject) -> Iterator[Complaint]:
    """A TensorRT plan was built with the TensorRT version of NGC's image."""
    if subject.folder is None or subject.backend != "tensorrt":
        return
    for version in subject.versions():
        file = subject.folder.version_dir(version) / subject.config.model_filename
        if not file.is_file():
            continue
        with file.open("rb") as plan:
            header = plan.read(_PLAN_VERSION.stop)
        if len(header) < _PLAN_VERSION.stop or not header.startswith(_PLAN_MAGIC):
            yield warning("not a TensorRT plan", "build it with trtexec", file=file)
        elif tuple(header[_PLAN_VERSION])[:2] != NGC_TENSORRT:
            built, required = ".".join(map(str, header[_PLAN_VERSION])), ".".join(map(str, NGC_TENSORRT))
            yield warning(
                f"the plan was built with TensorRT {built}, NGC's image has {required}",
                f"rebuild it with TensorRT {required}, or with --versionCompatible",
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
    """The model without its external data; None if the file is not an ONNX model."""
    return _read(file, file.stat().st_mtime_ns)


# Several rules read the same file.
@functools.lru_cache(maxsize=4)
def _read(file: Path, _modified_ns: int) -> onnx.ModelProto | None:
    try:
        return onnx.load(str(file), load_external_data=False)
    except DecodeError:
        return None


def _external_data(message: Message | None) -> Iterator[tuple[str, int]]:
    """File and end offset in bytes of each tensor's external data, in a model, its nodes and their subgraphs."""
    if isinstance(message, onnx.TensorProto):
        if message.data_location == onnx.TensorProto.EXTERNAL:
            entries = {entry.key: entry.value for entry in message.external_data}
            yield entries.get("location", ""), int(entries.get("offset", 0)) + int(entries.get("length", 0))
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
