from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trireme.errors import ConfigError
from trireme.repository.folders import ModelFolder
from trireme.repository.golden import load_golden


def tensor(datatype: str, shape: list[int], data: Any) -> dict[str, Any]:
    return {"name": "X", "datatype": datatype, "shape": shape, "data": data}


def sample(*inputs: Any, **more: Any) -> dict[str, Any]:
    return {"request": {"inputs": list(inputs)}, "response": {"outputs": []}, **more}


def write(model: Path, text: str | bytes) -> ModelFolder:
    (model / "golden").mkdir()
    (model / "golden" / "case.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    return ModelFolder(model)


@pytest.mark.parametrize(
    ("datatype", "shape", "nested", "flat"),
    [
        ("BYTES", [2, 1], [["x"], [""]], ["x", ""]),
        ("FP32", [2, 2], [[1, 2], [3, 4.5]], [1, 2, 3, 4.5]),
        ("INT8", [1, 2, 1], [[[-128], [127]]], [-128, 127]),
        ("BOOL", [2, 1], [[True], [False]], [True, False]),
        ("FP32", [0, 3], [], []),
    ],
)
def test_nested_data_equals_flat_data(
    tmp_path: Path, datatype: str, shape: list[int], nested: Any, flat: list[Any]
) -> None:
    folder = write(tmp_path, json.dumps(sample(tensor(datatype, shape, nested))))
    (read,) = load_golden(folder)
    assert list(read.inputs["X"].shape) == shape
    expected = [value.encode() for value in flat] if datatype == "BYTES" else flat
    assert read.inputs["X"].reshape(-1).tolist() == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            sample(tensor("FP32", [1, 3], [1, 2])),
            r"request.inputs\[0\]: data of X has 2 values, but shape \[1, 3\] needs 3",
        ),
        (sample(tensor("BYTES", [1], [7])), "data of X contains 7, which is not a value of BYTES"),
        (sample(tensor("INT32", [1], [1.5])), "data of X contains 1.5, which is not a value of INT32"),
        (sample(tensor("INT32", [1], [True])), "data of X contains True, which is not a value of INT32"),
        (sample(tensor("UINT8", [1], [256])), r"data of X contains a value outside 0 to 255 \(UINT8\)"),
        (sample(tensor("FP16", [1], [None])), "data of X contains None"),
        (sample(tensor("FP23", [1], [1])), "datatype is 'FP23'; it must be 'BOOL', "),
        (sample(tensor("FP32", [-1], [])), r"shape\[0\] is -1; it must be"),
        (sample({"datatype": "FP32", "shape": [0], "data": []}), r"request.inputs\[0\].name is missing"),
        (sample("x"), r"request.inputs\[0\] is 'x'; it must be an object"),
        (
            sample(tolerance={"X": {"absolut": 1}}),
            "unknown key 'tolerance.X.absolut'; available: 'absolute', 'cosine'",
        ),
        (sample(tolerance={"X": {"absolute": 1, "cosine": 1}}), "tolerance.X: set exactly one of absolute, cosine"),
        ({"request": {"inputs": []}}, "response is missing"),
        (
            {"request": {"inputs": [], "parameters": {"a": 1.5}}, "response": {"outputs": []}},
            "request.parameters.a is 1.5; it must be a string or an integer or a boolean",
        ),
        ([], "it must be an object"),
        ("{", "case.json:1:1: not JSON: EOF"),
        (b"\xff{}", "case.json:1: not UTF-8"),
        ("[" * 100_000, "recursion limit exceeded"),
    ],
)
def test_an_invalid_sample_is_reported_with_file_and_field(tmp_path: Path, text: Any, message: str) -> None:
    folder = write(tmp_path, text if isinstance(text, str | bytes) else json.dumps(text))
    with pytest.raises(ConfigError, match=message) as raised:
        load_golden(folder)
    assert str(raised.value).startswith(str(tmp_path / "golden" / "case.json"))
    assert "\n" not in str(raised.value)
