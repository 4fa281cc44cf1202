"""Versions of a text encoder to release: good, slow, wrong and crashing ones, derived from its first version.

A mark identifies the version that responded: the embedding's length, 1 in the first version, is 1 + mark / 100. The
direction, which alone is compared, does not change.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from enum import Enum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from trireme.repository.manifest import MANIFEST_NAME, read_manifest, record_files, write_manifest

OUTPUT = "EMBEDDING"
_MODEL_NAME = "model.onnx"
_MARKS_PER_UNIT = 100
# About fifteen milliseconds on one core: many times what the small encoders need for a sentence.
_SLOW_WIDTH = 384
_SLOW_PRODUCTS = 12


class VersionKind(str, Enum):
    """How a version behaves."""

    GOOD = "good"
    SLOW = "slow"
    WRONG = "wrong"
    CRASHING = "crashing"


def make_version(origin: Path, target: Path, kind: VersionKind, mark: int) -> None:
    """Fill ``target``, which must not exist, with a version derived from the one in ``origin``."""
    shutil.copytree(origin, target)
    path = target / _MODEL_NAME
    model = onnx.load(path)
    _mark(
        model.graph,
        (-1 if kind is VersionKind.WRONG else 1) * (1 + mark / _MARKS_PER_UNIT),
        slow=kind is VersionKind.SLOW,
    )
    # Not written in place: the file may be a link to the origin's.
    path.unlink()
    data = model.SerializeToString()
    path.write_bytes(data[: len(data) // 2] if kind is VersionKind.CRASHING else data)
    manifest = read_manifest(origin)
    files = record_files(entry for entry in target.iterdir() if entry.name != MANIFEST_NAME)
    (target / MANIFEST_NAME).unlink()
    write_manifest(replace(manifest, files=files), target)


def mark_of(embedding: npt.NDArray[np.float32]) -> int:
    """The mark of the version that computed an embedding, FP32 [rows, 384]."""
    return round((float(np.linalg.norm(embedding[0])) - 1) * _MARKS_PER_UNIT)


def _mark(graph: onnx.GraphProto, factor: float, *, slow: bool) -> None:
    raw = f"{OUTPUT}_raw"
    for node in graph.node:
        node.output[:] = [raw if name == OUTPUT else name for name in node.output]
        node.input[:] = [raw if name == OUTPUT else name for name in node.input]
    graph.initializer.append(numpy_helper.from_array(np.array(factor, dtype=np.float32), "mark"))
    if slow:
        raw = _delay(graph, raw)
    graph.node.append(helper.make_node("Mul", [raw, "mark"], [OUTPUT]))


def _delay(graph: onnx.GraphProto, raw: str) -> str:
    """Matrix products with a result of zero; they depend on the input, so that they cannot be computed in advance."""
    seed = np.full((_SLOW_WIDTH, _SLOW_WIDTH), 1 / _SLOW_WIDTH, dtype=np.float32)
    graph.initializer.append(numpy_helper.from_array(seed, "delay_seed"))
    graph.initializer.append(numpy_helper.from_array(np.array(1e-9, dtype=np.float32), "delay_tiny"))
    graph.initializer.append(numpy_helper.from_array(np.array(0, dtype=np.float32), "delay_zero"))
    graph.node.append(helper.make_node("Cast", ["INPUT_IDS"], ["delay_ids"], to=onnx.TensorProto.FLOAT))
    graph.node.append(helper.make_node("ReduceMean", ["delay_ids"], ["delay_mean"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["delay_mean", "delay_tiny"], ["delay_shift"]))
    graph.node.append(helper.make_node("Add", ["delay_seed", "delay_shift"], ["delay_0"]))
    for index in range(_SLOW_PRODUCTS):
        product = helper.make_node("MatMul", [f"delay_{index}", "delay_seed"], [f"delay_{index + 1}"])
        graph.node.append(product)
    graph.node.append(helper.make_node("ReduceMean", [f"delay_{_SLOW_PRODUCTS}"], ["delay_end"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["delay_end", "delay_zero"], ["delay_nothing"]))
    graph.node.append(helper.make_node("Add", [raw, "delay_nothing"], ["delayed"]))
    return "delayed"
