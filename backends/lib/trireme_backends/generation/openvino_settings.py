"""``model.json`` of the engine ``openvino_genai``: its keys have the names of vLLM's engine arguments."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from trireme_backends.errors import FileError, ModelError
from trireme_backends.model import Model
from trireme_backends.strict_json import Range, read_json

MODEL_FILE = "model.json"
ENGINE = "openvino_genai"
_MOST_TOKENS = 1 << 31


@dataclass(frozen=True, slots=True)
class PromptLookup:
    """Speculation: what follows the last tokens where they stood before is guessed, and checked in one step.

    Attributes:
        num_speculative_tokens: how many are guessed at a time. prompt_lookup_max: how many of the last are looked for.
    """

    method: Literal["ngram"]
    num_speculative_tokens: Annotated[int, Range(1, 32)] = 5
    prompt_lookup_max: Annotated[int, Range(1, 16)] = 3


@dataclass(frozen=True, slots=True)
class OpenVinoSettings:
    """Keys with vLLM's names mean what they mean there.

    Attributes:
        model: the version's GGUF file, or its folder of OpenVINO IR files; weights are computed as they are stored.
        max_model_len: tokens of prompt and answer.
        max_num_seqs: requests computed at a time; more wait.
        max_num_batched_tokens: in a step; a long prompt is computed in parts of this size, between others' tokens.
        kv_cache_tokens: what the KV cache holds, of all requests together. When it is full, the youngest request gives
            its place up and is computed again later.
        max_waiting: requests that may wait for a place; more are refused.
        threads: that compute; None: half of the cores, so that two replicas fit on a machine.
    """

    model: str
    max_model_len: Annotated[int, Range(16, _MOST_TOKENS)]
    max_num_seqs: Annotated[int, Range(1, 1024)] = 16
    max_num_batched_tokens: Annotated[int, Range(16, 8192)] = 128
    kv_cache_tokens: Annotated[int, Range(64, _MOST_TOKENS)] = 16384
    enable_prefix_caching: bool = True
    speculative_config: PromptLookup | None = None
    max_waiting: Annotated[int, Range(1)] = 128
    threads: Annotated[int, Range(1, 1024)] | None = None

    @classmethod
    def of(cls, model: Model) -> OpenVinoSettings:
        """Read a version's ``model.json``.

        Raises:
            ModelError: the file is missing, or wrong at a key, which the message names.
        """
        path = model.file(MODEL_FILE)
        settings = read_json(path, cls)
        if settings.kv_cache_tokens < settings.max_model_len:
            raise FileError(
                path,
                "kv_cache_tokens",
                f"{settings.kv_cache_tokens} cannot hold one request of max_model_len {settings.max_model_len}; "
                "raise the one or lower the other",
            )
        return settings

    def weights(self, model: Model) -> Path:
        """The file or folder that ``model`` names.

        Raises:
            ModelError: it is not in the version.
        """
        path = (model.version_dir / self.model).resolve()
        if not path.is_relative_to(model.version_dir.resolve()) or not path.exists():
            raise ModelError(f"model '{model.name}': {path} is missing; export the model, or restore the file")
        return path

    def thread_count(self) -> int:
        return self.threads or max(1, len(os.sched_getaffinity(0)) // 2)
