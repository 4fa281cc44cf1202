"""``trireme ask`` on a fake Triton in this process."""

from __future__ import annotations

import json

import pytest
from trireme.cli import main
from trireme.errors import TriremeError
from trireme.files import json_text
from trireme.serving.run_state import Phase, RunDirectory, ServingState
from trireme.settings import Settings
from trireme_client import FakeServer

CONFIG = """
backend: "python"
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 2 ] } ]
output [ { name: "VALUES" data_type: TYPE_FP32 dims: [ 2 ] } ]
"""


def test_an_output_that_is_not_finite_is_an_error_with_model_and_text(tmp_path, monkeypatch, capsys):
    model = tmp_path / "repository" / "values"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(CONFIG)
    for name, folder in {"PROJECT": "", "REPOSITORY": "repository", "STATE": "state"}.items():
        monkeypatch.setenv(f"TRIREME_{name}_DIR", str(tmp_path / folder))
    directory = RunDirectory(Settings.from_environment().run_dir)
    with FakeServer() as server, directory.only_one():
        server.add_model("values", inputs={"TEXT": ("BYTES", [1])}, outputs={"VALUES": ("FP32", [2])}, max_batch_size=8,
                         compute=lambda inputs: {"VALUES": [[1, float(row[0])] for row in inputs["TEXT"]]})  # fmt: skip
        directory.write(ServingState(1, 2.0, Phase.SERVING, server.address, ""))
        assert main(["ask", "values", "1", "nan", "--json"]) == 1
        failed = capsys.readouterr()
        assert main(["ask", "values", "2", "--json"]) == 0
    assert failed.out == ""
    assert failed.err == "trireme: values v1: output VALUES for text 2 is not a finite number\n"
    assert json.loads(capsys.readouterr().out)[0]["outputs"] == {"VALUES": [1.0, 2.0]}


def test_json_output_contains_only_finite_numbers():
    assert json.loads(json_text({"a": 1.5})) == {"a": 1.5}
    with pytest.raises(TriremeError, match="cannot be written as JSON"):
        json_text({"a": float("inf")})
