"""Builds TensorRT plans for the GPU of this machine. Requires the extra ``[gpu]`` and an NVIDIA GPU.

A plan works only on one GPU type and with one TensorRT version, so it is built on the machine that serves it.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from trireme.errors import SetupError, TriremeError

from trireme_export.graph import ATTENTION_MASK, INPUT_IDS
from trireme_export.recipe import TensorRtProfile


def check_profile(profile: TensorRtProfile, max_batch_size: int, subject: str) -> None:
    """Check that a plan with this profile accepts every batch that Triton may send.

    Raises:
        TriremeError: the shapes are not ascending [batch, sequence], or the batch is below ``max_batch_size``.
    """
    shapes = (profile.min_shape, profile.opt_shape, profile.max_shape)
    if any(len(shape) != 2 or min(shape) < 1 for shape in shapes) or not all(
        low <= middle <= high for low, middle, high in zip(*shapes, strict=True)
    ):
        raise TriremeError(
            f"{subject}: the TensorRT profile {profile.min_shape} <= {profile.opt_shape} <= {profile.max_shape} "
            "is not three ascending shapes [batch, sequence]"
        )
    if profile.max_shape[0] < max_batch_size:
        raise TriremeError(
            f"{subject}: config.pbtxt allows batches of {max_batch_size}, but the TensorRT profile only "
            f"{profile.max_shape[0]}; raise tensorrt.max_shape in export.toml or lower max_batch_size"
        )


def check_operators(graph: onnx.ModelProto, subject: str) -> None:
    """Check that the graph has only standard ONNX operators.

    Raises:
        TriremeError: an operator is not standard, so TensorRT does not support it.
    """
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in graph.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise TriremeError(
            f"{subject}: TensorRT does not support {', '.join(foreign)}; export the graph from a source of kind 'torch'"
        )


def build_plan(model: Path, profile: TensorRtProfile, subject: str) -> bytes:
    """Compile a graph that has this repository's inputs and output.

    Raises:
        SetupError: TensorRT is not installed, or there is no GPU.
        TriremeError: TensorRT rejects the graph; gives the reason.
    """
    try:
        import tensorrt  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        raise SetupError(
            f"{subject}: a TensorRT plan needs the extra [gpu] (tensorrt is not installed)",
            "pip install --constraint constraints.txt --editable '.[gpu]', on a machine with an NVIDIA GPU",
        ) from error
    builder = tensorrt.Builder(tensorrt.Logger(tensorrt.Logger.ERROR))
    if not builder:
        raise SetupError(f"{subject}: TensorRT found no GPU", "build the plan on the machine that serves it")
    network = builder.create_network(0)
    parser = tensorrt.OnnxParser(network, tensorrt.Logger(tensorrt.Logger.ERROR))
    if not parser.parse_from_file(str(model)):
        reasons = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        raise TriremeError(f"{subject}: TensorRT rejected the graph: {reasons:.300}")
    shapes = builder.create_optimization_profile()
    for name in (INPUT_IDS, ATTENTION_MASK):
        shapes.set_shape(name, profile.min_shape, profile.opt_shape, profile.max_shape)
    config = builder.create_builder_config()
    config.add_optimization_profile(shapes)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise TriremeError(f"{subject}: TensorRT could not build the plan; see its log above")
    return bytes(plan)
