from __future__ import annotations

import numpy as np
import onnx
import pytest
from trireme.errors import TriremeError
from trireme_export.forward import onnx_forward, pool_and_normalise, source_forward
from trireme_export.graph import add_head, check_symbolic, encoder_graph, quantize, quantized_operators

from tests.unit.trireme_export.tiny import tiny_encoder

IDS = np.array([[1, 5, 6, 7, 2], [1, 9, 2, 0, 0]])
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


@pytest.mark.parametrize("ids_dtype", ["int64", "int32"])
@pytest.mark.parametrize("token_types", [True, False])
def test_graph_pools_and_normalises_like_the_reference(tmp_path, ids_dtype, token_types):
    source = tiny_encoder(ids_dtype=ids_dtype, token_types=token_types)
    onnx.save(source, tmp_path / "source.onnx")

    found = onnx_forward(encoder_graph(source, "tiny"))(IDS, MASK)

    np.testing.assert_allclose(found, source_forward(tmp_path / "source.onnx")(IDS, MASK), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-6)


def test_inputs_are_int64_with_symbolic_batch_and_sequence_for_any_source():
    graph = encoder_graph(tiny_encoder(ids_dtype="int32"), "tiny").graph

    assert [value.name for value in graph.input] == ["INPUT_IDS", "ATTENTION_MASK"]
    for value in graph.input:
        assert value.type.tensor_type.elem_type == onnx.TensorProto.INT64
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
    assert [value.name for value in graph.output] == ["EMBEDDING"]


def test_nodes_of_other_outputs_are_dropped():
    nodes = encoder_graph(tiny_encoder(), "tiny").graph.node

    assert "unused" not in {name for node in nodes for name in node.output}


def test_graph_with_a_fixed_batch_is_rejected_with_the_dimension():
    with pytest.raises(TriremeError, match="dimension 0 of input_ids is fixed at 1"):
        encoder_graph(tiny_encoder(batch=1), "tiny")


def test_symbolic_check_includes_the_batch_of_outputs():
    model = encoder_graph(tiny_encoder(), "tiny")
    model.graph.output[0].type.tensor_type.shape.dim[0].dim_value = 1

    with pytest.raises(TriremeError, match="dimension 0 of EMBEDDING is fixed at 1"):
        check_symbolic(model, "tiny")


def test_graph_with_other_inputs_is_rejected_with_their_names():
    source = tiny_encoder()
    source.graph.input[1].name = "lengths"

    with pytest.raises(TriremeError, match="inputs are input_ids, lengths, token_type_ids"):
        encoder_graph(source, "tiny")


def test_head_returns_the_probabilities_of_its_logits():
    encoder = encoder_graph(tiny_encoder(), "tiny")
    weights = np.random.default_rng(0).normal(size=(8, 2)).astype(np.float32)
    bias = np.array([0.5, -0.5], np.float32)

    found = onnx_forward(add_head(encoder, weights, bias))(IDS, MASK)

    logits = onnx_forward(encoder)(IDS, MASK) @ weights + bias
    np.testing.assert_allclose(found, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), atol=1e-6)


def test_only_the_layers_are_quantised_and_not_the_attention():
    encoder = encoder_graph(tiny_encoder(), "tiny")

    assert quantized_operators(encoder) == 0
    assert quantized_operators(quantize(encoder)) == 2


def test_row_without_tokens_gives_zeros_and_not_nan():
    found = pool_and_normalise(np.ones((1, 3, 4), np.float32), np.zeros((1, 3), np.int64))

    assert found.tolist() == [[0.0, 0.0, 0.0, 0.0]]
