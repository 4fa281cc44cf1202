"""Converts GGUF weights to the format that vLLM loads, in vLLM's environment."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trireme.errors import SetupError, TriremeError
from trireme.files import write_json_atomic
from trireme.repository.manifest import Perplexity
from trireme.settings import Settings

_DEADLINE_SECONDS = 900
_SCRIPT = Path(__file__).with_name("gguf_to_safetensors.py")


def has_vllm(settings: Settings) -> bool:
    """Whether vLLM's environment, made by ``make vllm``, exists."""
    return (settings.vllm_dir / "set-up.json").is_file()


def write_engine_arguments(folder: Path, model: str, version: int, engine: Mapping[str, Any]) -> None:
    """Write ``model.json`` for vLLM's backends; the weights' path is relative to the repository."""
    write_json_atomic(folder / "model.json", {"model": f"{model}/{version}", **engine})


def write_safetensors(gguf: Path, folder: Path, text: str, settings: Settings) -> Perplexity:
    """Convert ``gguf`` to ``config.json``, ``model.safetensors``, tokenizer and chat template in ``folder``.

    Returns:
        The perplexity of ``text`` with the written model.

    Raises:
        SetupError: vLLM's environment is missing.
        TriremeError: the conversion failed; gives the reason.
    """
    if not has_vllm(settings):
        raise SetupError(f"converting {gguf.name} requires vLLM's environment, {settings.vllm_dir}", "make vllm")
    python = settings.vllm_dir / "bin" / "python"
    try:
        done = subprocess.run(
            # -P keeps the modules beside the script off its import path.
            [str(python), "-P", str(_SCRIPT), str(gguf), str(folder)],
            input=text,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=_DEADLINE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise TriremeError(f"converting {gguf.name} took more than {_DEADLINE_SECONDS} s") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise TriremeError(f"cannot convert {gguf.name}: {lines[-1] if lines else f'exit code {done.returncode}'}")
    measured = json.loads(done.stdout.splitlines()[-1])
    return Perplexity(math.exp(measured["mean_loss"]), measured["tokens"], "transformers, bfloat16")
