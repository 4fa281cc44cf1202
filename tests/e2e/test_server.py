"""Start of a tritonserver: progress, and error messages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from trireme.errors import ServerError
from trireme.processes.server import ServerFlags, TritonServer

from tests.e2e.serving import MODELS

ENSEMBLE = """platform: "ensemble"
max_batch_size: 8
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "ANSWER" data_type: TYPE_STRING dims: [ 1 ] } ]
ensemble_scheduling { step [ {
  model_name: "echo" model_version: 1
  input_map { key: "TEXT" value: "TEXT" } output_map { key: "ANSWER" value: "ANSWER" }
} ] }
"""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A model under an ensemble, which logs an error about CUDA on every machine without a GPU."""
    shutil.copytree(MODELS / "echo", tmp_path / "models" / "echo")
    (tmp_path / "models" / "pipe" / "1").mkdir(parents=True)
    (tmp_path / "models" / "pipe" / "config.pbtxt").write_text(ENSEMBLE)
    return tmp_path / "models"


def initialize(models: Path, model: str, *lines: str) -> None:
    """Set the code that a model runs when it is loaded."""
    path = models / model / "1" / "model.py"
    body = "".join(f"        {line}\n" for line in lines)
    code = path.read_text()
    head = "class TritonPythonModel:\n"
    path.write_text(code.replace(head, f"import sys\n{head}    def initialize(self, args):\n{body}\n"))


def test_a_start_that_makes_progress_may_take_long(models: Path) -> None:
    initialize(
        models,
        "echo",
        "for _ in range(16):",
        "    print('loading', file=sys.stderr, flush=True)",
        "    time.sleep(0.5)",
    )
    with TritonServer.start(ServerFlags(models), stall_seconds=4.0) as server:
        assert server.is_alive()


def test_a_start_without_progress_fails_with_the_model_that_hangs(models: Path) -> None:
    shutil.copytree(models / "echo", models / "slow")
    initialize(models, "slow", "time.sleep(600)")
    with pytest.raises(ServerError, match=r"made no progress for 3 s while loading slow$"):
        TritonServer.start(ServerFlags(models), stall_seconds=3.0)


def test_a_server_that_exits_during_its_start_reports_the_error_of_its_model(models: Path) -> None:
    shutil.copytree(models / "echo", models / "wrong")
    initialize(models, "wrong", "raise ValueError('no weights')")
    with pytest.raises(ServerError, match=r"exited during start: .*'wrong'.*no weights"):
        TritonServer.start(ServerFlags(models))


def test_errors_that_every_server_without_a_gpu_logs_are_ignored(models: Path) -> None:
    with TritonServer.start(ServerFlags(models)) as server:
        assert "unable to create stream for pipe" in server.log_path.read_text()
        assert server.errors_about("pipe") == []
        server.process.kill()
        server.process.wait(10.0)
        assert server.failure_reason() == "killed by SIGKILL"
