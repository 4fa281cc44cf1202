"""Switching a stub, and the processes that vLLM starts from it, to vLLM's environment."""

from __future__ import annotations

import locale
import os
import sys
from pathlib import Path

import pytest
from trireme_backends.errors import ModelError
from trireme_backends.generation.vllm_environment import DIRECTORY_VARIABLE, enter_vllm_environment


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty environment; the changes of entering it are reverted."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "executable", sys.executable)
    monkeypatch.setattr(locale, "setlocale", lambda *_: None)
    monkeypatch.setattr(os, "environ", {**os.environ, DIRECTORY_VARIABLE: str(tmp_path)})
    return tmp_path


def test_vllm_is_found_in_this_process_and_in_its_child_processes(environment: Path) -> None:
    packages = environment / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    (packages / "vllm").mkdir(parents=True)
    enter_vllm_environment()
    assert [path for path in sys.path if path.endswith("site-packages")] == [str(packages)]
    assert Path(sys.executable) == environment / "bin/python"
    assert os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] == "0"


@pytest.mark.usefixtures("environment")
def test_without_vllm_the_error_names_the_command_that_installs_it() -> None:
    with pytest.raises(ModelError, match="run: make vllm"):
        enter_vllm_environment()
