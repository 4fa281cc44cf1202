"""GGUF weights in the form that vLLM loads, made by its own environment."""

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
    """Whether ``make vllm`` made the environment that the conversion runs in."""
    return (settings.vllm_dir / "set-up.json").is_file()


def write_engine_arguments(folder: Path, model: str, version: int, engine: Mapping[str, Any]) -> None:
    """Write ``model.json`` as vLLM's backends read it: the weights are named from the repository's folder."""
    write_json_atomic(folder / "model.json", {"model": f"{model}/{version}", **engine})


def write_safetensors(gguf: Path, folder: Path, text: str, settings: Settings) -> Perplexity:
    """Fill ``folder`` with the model of ``gguf``: ``config.json``, ``model.safetensors``, tokenizer and chat template.

    Returns:
        How well what was written foresees ``text``.

    Raises:
        SetupError: vLLM's environment is not there.
        TriremeError: the conversion failed; says why.
    """
    if not has_vllm(settings):
        raise SetupError(f"the conversion of {gguf.name} needs vLLM's environment, {settings.vllm_dir}", "make vllm")
    python = settings.vllm_dir / "bin" / "python"
    try:
        done = subprocess.run(
            # -P: the modules beside the script are none of its own.
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
        said = done.stderr.strip().splitlines()
        raise TriremeError(
            f"{gguf.name} could not be converted: {said[-1] if said else f'exit code {done.returncode}'}"
        )
    measured = json.loads(done.stdout.splitlines()[-1])
    return Perplexity(math.exp(measured["mean_loss"]), measured["tokens"], "transformers, bfloat16")
