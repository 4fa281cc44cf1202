"""GGUF weights in the form that vLLM loads, made by its own environment."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from trireme.errors import SetupError, TriremeError
from trireme.settings import Settings

_DEADLINE_SECONDS = 900
_SCRIPT = Path(__file__).with_name("gguf_to_safetensors.py")


def has_vllm(settings: Settings) -> bool:
    """Whether ``make vllm`` made the environment that the conversion runs in."""
    return (settings.vllm_dir / "set-up.json").is_file()


def write_safetensors(gguf: Path, folder: Path, settings: Settings) -> None:
    """Fill ``folder`` with the model of ``gguf``: ``config.json``, ``model.safetensors``, tokenizer and chat template.

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
