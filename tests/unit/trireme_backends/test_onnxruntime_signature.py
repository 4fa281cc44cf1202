"""Comparison of a configuration's tensors with those of a graph."""

from __future__ import annotations

from typing import Any

import pytest
from trireme_backends.errors import ModelError
from trireme_backends.onnxruntime_signature import GraphTensor, Signature, complete, signature_problems


def signature(x: tuple[int, ...] = (-1, -1), y: tuple[int, ...] = (-1, 384), optional: bool = False) -> Signature:
    more = (GraphTensor("scale", "TYPE_FP32", ()),) if optional else ()
    return Signature((GraphTensor("x", "TYPE_INT64", x),), more, (GraphTensor("y", "TYPE_FP32", y),))


def config(x: list[Any] | None = None, y: list[Any] | None = None, batch: int = 8, **more: Any) -> dict[str, Any]:
    """Some dims are strings, as in protobuf's JSON form."""
    return {
        "max_batch_size": batch,
        "input": [{"name": "x", "data_type": "TYPE_INT64", "dims": x or [-1]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": y or ["384"]}],
        **more,
    }


@pytest.mark.parametrize("good", [config(), config(x=["-1"]), config(x=[16]), config(x=[-1, -1], y=[-1, 384], batch=0)])
def test_matching_tensors_have_no_problems(good: dict[str, Any]) -> None:
    assert signature_problems(good, signature()) == []


def test_an_optional_input_may_be_omitted_or_given() -> None:
    assert signature_problems(config(), signature(optional=True)) == []
    scale = {"name": "scale", "data_type": "TYPE_FP32", "dims": [1], "optional": True}
    given = config(x=[-1, -1], y=[-1, 384], batch=0)
    given["input"].append(scale)
    assert signature_problems(given, signature(optional=True)) == []


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (config(y=[16]), "output 'y' is [-1, 16] in the configuration (batch dimension included), but [-1, 384]"),
        (config(y=[-1]), "write dims: [384]"),
        (config(x=[-1, 26]), "write dims: [-1], or max_batch_size: 0"),
        (
            config(output=[{"name": "z", "data_type": "TYPE_FP32", "dims": [384]}]),
            "output 'z' is not in the graph; available: y",
        ),
        (
            config(output=[{"name": "y", "data_type": "TYPE_FP16", "dims": [384]}]),
            "TYPE_FP16 in the configuration, but TYPE_FP32",
        ),
        (config(input=[{"name": "x", "data_type": "TYPE_INT64", "dims": [-1]}] * 0), "the graph requires input 'x'"),
        (config(sequence_batching={"control_input": [{"name": "START"}]}), "sequence control 'START' is not an input"),
    ],
)
def test_a_mismatched_tensor_is_named_with_its_fix(bad: dict[str, Any], words: str) -> None:
    (problem,) = signature_problems(bad, signature())
    assert words in problem


def test_a_graph_that_cannot_batch_names_the_tensor_that_prevents_it() -> None:
    problem = signature_problems(config(x=[4]), signature(x=(1, 4)))[0]
    assert "input 'x' is [1, 4] in the graph, so it cannot be batched" in problem


def test_a_scalar_has_dims_of_one_element() -> None:
    scalar = signature(x=(), y=())
    assert signature_problems(config(x=[1], y=[1], batch=0), scalar) == []
    assert "write dims: [1], not [2]" in signature_problems(config(x=[2], y=[1], batch=0), scalar)[0]


def test_an_empty_configuration_is_completed_with_a_batch_dimension() -> None:
    completion = complete({"input": [], "output": []}, signature())
    assert (completion.max_batch_size, completion.dynamic_batching) == (4, True)
    assert completion.outputs == [{"name": "y", "data_type": "TYPE_FP32", "dims": [384]}]


def test_configured_fields_are_kept() -> None:
    written = config()
    completion = complete({**written, "output": [], "dynamic_batching": {}}, signature())
    assert (completion.max_batch_size, completion.dynamic_batching) == (8, False)
    assert completion.inputs == written["input"]


def test_a_graph_with_a_fixed_first_dimension_is_completed_without_a_batch_dimension() -> None:
    assert complete({}, signature(x=(1, 4))).max_batch_size == 0
    with pytest.raises(ModelError, match="max_batch_size is 8, but the graph cannot batch"):
        complete({"max_batch_size": 8}, signature(x=(1, 4)))


def test_a_batch_of_scalars_is_reshaped() -> None:
    assert complete({}, signature(y=(-1,))).outputs[0]["reshape"] == {"shape": []}
