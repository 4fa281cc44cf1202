"""Rewrites an encoder's ONNX graph to the inputs and output that every model of the repository has.

Inputs ``INPUT_IDS`` and ``ATTENTION_MASK`` INT64 [batch, sequence], both dimensions symbolic. Output ``EMBEDDING`` FP32
[batch, width], mean-pooled over the mask and L2-normalised; or, with a head, ``PROBABILITIES`` FP32 [batch, classes].
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper
from trireme.errors import TriremeError

INPUT_IDS, ATTENTION_MASK = "INPUT_IDS", "ATTENTION_MASK"
EMBEDDING, PROBABILITIES = "EMBEDDING", "PROBABILITIES"

# The usual names of an encoder's inputs. Token types are optional; they are all 0 for single texts.
_SOURCE_NAMES = {"input_ids": INPUT_IDS, "attention_mask": ATTENTION_MASK}
_TOKEN_TYPES = "token_type_ids"
# The first operator set in which ReduceSum and Unsqueeze take their axes as inputs.
_MIN_OPSET = 13
_INTEGER_OPERATORS = frozenset(
    {"MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "QGemm", "QLinearMatMul", "QLinearConv", "QAttention"}
)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


def quantized_operators(model: onnx.ModelProto) -> int:
    """The number of nodes that compute in integers."""
    return sum(node.op_type in _INTEGER_OPERATORS for node in model.graph.node)


def encoder_graph(source: onnx.ModelProto, subject: str) -> onnx.ModelProto:
    """The encoder including pooling and L2 normalisation.

    Args:
        source: a graph from token ids to hidden states FP32 [batch, sequence, width].
        subject: its name in error messages.

    Raises:
        TriremeError: the graph has other inputs, no hidden states, an old operator set, or a fixed batch or sequence.
    """
    if opset_of(source) < _MIN_OPSET:
        raise TriremeError(f"{subject}: the graph has opset {opset_of(source)}; export it with {_MIN_OPSET} or later")
    model = onnx.ModelProto()
    model.CopyFrom(source)
    graph = model.graph
    hidden = _hidden_states(graph, subject)
    _check_symbolic([*graph.input, hidden], subject)

    head = _canonical_inputs(graph, subject)
    width = hidden.type.tensor_type.shape.dim[2].dim_value
    tail = _pooling(hidden.name)
    body = _needed_nodes(graph, hidden.name)
    del graph.node[:], graph.output[:], graph.value_info[:]
    graph.node.extend([*head, *body, *tail])
    graph.output.append(helper.make_tensor_value_info(EMBEDDING, TensorProto.FLOAT, ["batch", width]))
    graph.initializer.extend(
        [
            numpy_helper.from_array(np.array([1], np.int64), "trireme_axis_1"),
            numpy_helper.from_array(np.array(1e-9, np.float32), "trireme_least"),
        ]
    )
    _drop_unused_initializers(graph)
    onnx.checker.check_model(model)
    return model


def add_head(
    encoder: onnx.ModelProto, weights: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]
) -> onnx.ModelProto:
    """The encoder followed by a softmax classifier.

    Args:
        encoder: a result of ``encoder_graph``, quantised or not.
        weights, bias: FP32 [width, classes] and [classes].
    """
    model = onnx.ModelProto()
    model.CopyFrom(encoder)
    graph = model.graph
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, ["batch", weights.shape[1]]))
    graph.initializer.extend(
        [
            numpy_helper.from_array(weights.astype(np.float32), "trireme_head_weights"),
            numpy_helper.from_array(bias.astype(np.float32), "trireme_head_bias"),
        ]
    )
    graph.node.extend(
        [
            helper.make_node("Gemm", [EMBEDDING, "trireme_head_weights", "trireme_head_bias"], ["trireme_logits"]),
            helper.make_node("Softmax", ["trireme_logits"], [PROBABILITIES], axis=-1),
        ]
    )
    onnx.checker.check_model(model)
    return model


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with int8 weights and dynamically quantised activations.

    Quantisation is per channel: each column of a weight has its own scale, so that outliers in one column do not reduce
    the precision of the others. Weights use 7 of their 8 bits: CPUs without VNNI sum pairs of products in 16 bits,
    which 8-bit weights would overflow, so that results would differ between CPUs. Source: ONNX Runtime, "Quantize ONNX
    Models", U8S8 and reduce_range.
    """
    # Takes half a second to import, and only int8 needs it.
    from onnxruntime.quantization import (  # type: ignore[import-untyped,unused-ignore]
        QuantType,
        quantize_dynamic,
    )

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # the library logs advice on pre-processing at every call, to the root logger
    try:
        with tempfile.TemporaryDirectory() as folder:
            written = Path(folder) / "int8.onnx"
            quantize_dynamic(
                model, written, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8,
                # ONNX cannot infer types after com.microsoft nodes (fused attention); all of their outputs are FP32.
                extra_options={"DefaultTensorType": TensorProto.FLOAT},
            )  # fmt: skip
            return onnx.load(written)
    finally:
        root.setLevel(level)


def check_symbolic(model: onnx.ModelProto, subject: str) -> None:
    """Check that batch and sequence of all inputs, and the batch of the output, are symbolic.

    Raises:
        TriremeError: a dimension is fixed; names the tensor, dimension and size.
    """
    _check_symbolic([*model.graph.input, *model.graph.output], subject)


def _check_symbolic(tensors: list[onnx.ValueInfoProto], subject: str) -> None:
    for tensor in tensors:
        dims = tensor.type.tensor_type.shape.dim
        # The last dimension of an output is its width; all others are batch or sequence.
        floating = tensor.type.tensor_type.elem_type == TensorProto.FLOAT
        for axis, dim in enumerate(dims[:-1] if floating else dims):
            if dim.HasField("dim_value"):
                raise TriremeError(
                    f"{subject}: dimension {axis} of {tensor.name} is fixed at {dim.dim_value}; "
                    "export the source with a symbolic batch and sequence"
                )


def _hidden_states(graph: onnx.GraphProto, subject: str) -> onnx.ValueInfoProto:
    found = [
        output
        for output in graph.output
        if output.type.tensor_type.elem_type == TensorProto.FLOAT
        and len(output.type.tensor_type.shape.dim) == 3
        and output.type.tensor_type.shape.dim[2].dim_value
    ]
    if len(found) != 1:
        names = ", ".join(output.name for output in graph.output)
        raise TriremeError(
            f"{subject}: the graph must have exactly one output FP32 [batch, sequence, width], but has {len(found)} "
            f"(outputs: {names})"
        )
    return found[0]


def _canonical_inputs(graph: onnx.GraphProto, subject: str) -> list[onnx.NodeProto]:
    """Replace the graph's inputs; returns the nodes that compute the source's inputs, cast to their types."""
    initial = {tensor.name for tensor in graph.initializer}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input if value.name not in initial}
    unknown = set(types) - {*_SOURCE_NAMES, _TOKEN_TYPES}
    if unknown or not set(_SOURCE_NAMES) <= set(types):
        raise TriremeError(
            f"{subject}: the graph's inputs are {', '.join(sorted(types))}; "
            f"expected input_ids, attention_mask and optionally {_TOKEN_TYPES}"
        )
    del graph.input[:]
    for name in (INPUT_IDS, ATTENTION_MASK):
        graph.input.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]))
    nodes = [helper.make_node("Cast", [ours], [theirs], to=types[theirs]) for theirs, ours in _SOURCE_NAMES.items()]
    if _TOKEN_TYPES in types:
        zero = helper.make_tensor("zero", types[_TOKEN_TYPES], [1], [0])
        nodes.append(helper.make_node("Shape", [INPUT_IDS], ["trireme_shape"]))
        nodes.append(helper.make_node("ConstantOfShape", ["trireme_shape"], [_TOKEN_TYPES], value=zero))
    return nodes


def _pooling(hidden: str) -> list[onnx.NodeProto]:
    """Mean over unmasked tokens, then L2 normalisation. A matrix product sums rows without copying them."""
    return [
        helper.make_node("Cast", [ATTENTION_MASK], ["trireme_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["trireme_mask", "trireme_axis_1"], ["trireme_mask_row"]),
        helper.make_node("MatMul", ["trireme_mask_row", hidden], ["trireme_sum_row"]),
        helper.make_node("Squeeze", ["trireme_sum_row", "trireme_axis_1"], ["trireme_sum"]),
        helper.make_node("ReduceSum", ["trireme_mask", "trireme_axis_1"], ["trireme_count"], keepdims=1),
        helper.make_node("Max", ["trireme_count", "trireme_least"], ["trireme_count_safe"]),
        helper.make_node("Div", ["trireme_sum", "trireme_count_safe"], ["trireme_mean"]),
        helper.make_node("Mul", ["trireme_mean", "trireme_mean"], ["trireme_square"]),
        helper.make_node("ReduceSum", ["trireme_square", "trireme_axis_1"], ["trireme_square_sum"], keepdims=1),
        helper.make_node("Sqrt", ["trireme_square_sum"], ["trireme_length"]),
        helper.make_node("Max", ["trireme_length", "trireme_least"], ["trireme_length_safe"]),
        helper.make_node("Div", ["trireme_mean", "trireme_length_safe"], [EMBEDDING]),
    ]


def _needed_nodes(graph: onnx.GraphProto, output: str) -> list[onnx.NodeProto]:
    """The nodes that ``output`` depends on, in order."""
    needed = {output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            needed.update(name for name in _captured(node))
            kept.append(node)
    return kept[::-1]


def _captured(node: onnx.NodeProto) -> set[str]:
    """The outer names that a node's subgraphs (If, Loop) use."""
    names: set[str] = set()
    for attribute in node.attribute:
        for inner in [attribute.g, *attribute.graphs] if attribute.HasField("g") or attribute.graphs else []:
            for child in inner.node:
                names.update(child.input)
                names.update(_captured(child))
    return names


def _drop_unused_initializers(graph: onnx.GraphProto) -> None:
    used = {name for node in graph.node for name in [*node.input, *_captured(node)]}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
