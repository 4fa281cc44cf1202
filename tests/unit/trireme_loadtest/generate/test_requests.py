from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from trireme.errors import ConfigError, TriremeError
from trireme.repository.folders import ModelFolder
from trireme_loadtest.errors import SpecError
from trireme_loadtest.generate.requests import (
    WeightedModel,
    grpc_body,
    http_body,
    inputs_from_file,
    inputs_from_golden,
    text_tensors,
    texts_of_mixed_length,
)
from tritonclient.grpc import service_pb2


def test_a_grpc_body_is_a_request_that_triton_reads() -> None:
    inputs = {**text_tensors("Grüße"), "IDS": np.array([[1, 2]], dtype=np.int64)}

    request = service_pb2.ModelInferRequest.FromString(
        grpc_body("model", inputs, {"tier": "auto", "top": 3, "on": True})
    )

    assert request.model_name == "model"
    assert [(one.name, one.datatype, list(one.shape)) for one in request.inputs] == [
        ("TEXT", "BYTES", [1, 1]),
        ("IDS", "INT64", [1, 2]),
    ]
    assert request.raw_input_contents[0] == (7).to_bytes(4, "little") + "Grüße".encode()
    assert np.frombuffer(request.raw_input_contents[1], dtype=np.int64).tolist() == [1, 2]
    assert request.parameters["tier"].string_param == "auto"
    assert request.parameters["top"].int64_param == 3
    assert request.parameters["on"].bool_param is True


def test_an_http_body_is_the_request_as_json() -> None:
    document = json.loads(http_body(text_tensors("Grüße"), {"tier": "auto"}))

    assert document == {
        "inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["Grüße"]}],
        "parameters": {"tier": "auto"},
    }


def test_a_file_gives_one_request_per_line(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n\n two \n", encoding="utf-8")

    assert [inputs["TEXT"].tolist() for inputs in inputs_from_file(path)] == [[[b"one"]], [[b" two "]]]


@pytest.mark.parametrize(("content", "problem"), [(b"\n\n", "has no line"), (b"ok\n\xff\n", "not UTF-8: byte 3")])
def test_a_file_without_texts_is_rejected(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "texts.txt"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=problem):
        inputs_from_file(path)


def _golden(folder: Path, name: str, tensors: list[dict[str, object]]) -> None:
    (folder / "golden").mkdir(exist_ok=True)
    document = {"request": {"inputs": tensors}, "response": {"outputs": []}}
    (folder / "golden" / f"{name}.json").write_text(json.dumps(document))


def test_golden_texts_become_texts_of_many_lengths_the_same_in_every_run(tmp_path: Path) -> None:
    _golden(tmp_path, "a", [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["a quiet day by the sea"]}])

    texts = [inputs["TEXT"][0, 0].decode() for inputs in inputs_from_golden(ModelFolder(tmp_path))]
    lengths = [len(text.split()) for text in texts]

    assert texts == [inputs["TEXT"][0, 0].decode() for inputs in inputs_from_golden(ModelFolder(tmp_path))]
    assert {word for text in texts for word in text.split()} == {"a", "quiet", "day", "by", "the", "sea"}
    assert 13 <= np.median(lengths) <= 17
    assert np.percentile(lengths, 95) > 30


def test_golden_samples_of_other_inputs_are_sent_unchanged(tmp_path: Path) -> None:
    _golden(tmp_path, "a", [{"name": "IDS", "datatype": "INT64", "shape": [1, 2], "data": [1, 2]}])

    assert [inputs["IDS"].tolist() for inputs in inputs_from_golden(ModelFolder(tmp_path))] == [[[1, 2]]]


def test_a_model_without_golden_samples_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"has no golden samples in .*; set --inputs to a file"):
        inputs_from_golden(ModelFolder(tmp_path))


def test_samples_without_words_are_rejected() -> None:
    with pytest.raises(SpecError, match="have no word"):
        texts_of_mixed_length(["", "  "], 3)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("embedding_economy=fast", "weight of"),
        ("embedding_economy=-1", "weight of"),
        ("nope=1", "no model named 'nope'"),
    ],
)
def test_an_invalid_task_is_rejected(spec: str, problem: str) -> None:
    with pytest.raises(TriremeError, match=problem):
        WeightedModel.parse(spec, None)
