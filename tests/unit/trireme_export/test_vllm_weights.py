from __future__ import annotations

import json
from pathlib import Path

import pytest
from trireme.errors import SetupError, TriremeError
from trireme.settings import Settings
from trireme_export.exporter import Exporter
from trireme_export.vllm_weights import write_engine_arguments, write_safetensors


def settings(tmp_path: Path) -> Settings:
    return Settings(tmp_path, tmp_path / "repository", tmp_path / "state")


def add_environment(tmp_path: Path, program: str) -> None:
    """An environment whose Python is a shell script."""
    (tmp_path / "state/vllm/bin").mkdir(parents=True)
    (tmp_path / "state/vllm/set-up.json").write_text("{}")
    python = tmp_path / "state/vllm/bin/python"
    python.write_text(f"#!/bin/sh\n{program}\n")
    python.chmod(0o755)


def test_the_path_of_the_weights_is_relative_to_the_repository(tmp_path: Path) -> None:
    write_engine_arguments(tmp_path, "chat", 1, {"dtype": "bfloat16"})
    assert json.loads((tmp_path / "model.json").read_text()) == {"model": "chat/1", "dtype": "bfloat16"}


def test_without_vllm_s_environment_the_error_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"model\.gguf requires vLLM's environment.*make vllm"):
        write_safetensors(tmp_path / "model.gguf", tmp_path, "text", settings(tmp_path))


def test_the_measurement_of_the_script_is_returned(tmp_path: Path) -> None:
    add_environment(tmp_path, """echo 'loading'; echo '{"mean_loss": 0.0, "tokens": 7}'""")
    measured = write_safetensors(tmp_path / "model.gguf", tmp_path, "text", settings(tmp_path))
    assert (measured.perplexity, measured.tokens) == (1.0, 7)


def test_a_failed_conversion_is_reported_with_its_last_line(tmp_path: Path) -> None:
    add_environment(tmp_path, "echo 'Traceback'>&2; echo 'ValueError: no GGUF' >&2; exit 1")
    with pytest.raises(TriremeError, match=r"cannot convert model\.gguf: ValueError: no GGUF"):
        write_safetensors(tmp_path / "model.gguf", tmp_path, "text", settings(tmp_path))


def test_a_model_for_vllm_needs_its_environment_and_others_do_not(tmp_path: Path) -> None:
    for name, backend in (("chat", "vllm"), ("encoder", "onnxruntime")):
        (tmp_path / "repository" / name).mkdir(parents=True)
        (tmp_path / "repository" / name / "config.pbtxt").write_text(f'backend: "{backend}"\n')
    exporter = Exporter(settings(tmp_path), lambda _model, _step: None)
    assert (exporter.needs_vllm("chat"), exporter.needs_vllm("encoder")) == (True, False)
    add_environment(tmp_path, "true")
    assert not exporter.needs_vllm("chat")
