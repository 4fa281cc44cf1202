"""What ``model.json`` may say to the engine ``openvino_genai``."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from trireme_backends.errors import ModelError
from trireme_backends.generation.engine_file import MODEL_FILE, read_engine_file
from trireme_backends.model import Model

ENGINE = "openvino_genai"


@dataclass(frozen=True, slots=True)
class PromptLookup:
    """Speculation: what follows the last tokens where they stood before is guessed, and checked in one step.

    Attributes:
        num_speculative_tokens: how many are guessed at a time. prompt_lookup_max: how many of the last are looked for.
    """

    method: str = field(metadata={"kind": str, "choices": ("ngram",)})
    num_speculative_tokens: int = field(default=5, metadata={"least": 1, "most": 32})
    prompt_lookup_max: int = field(default=3, metadata={"least": 1, "most": 16})


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

    model: str = field(metadata={"kind": str})
    max_model_len: int = field(metadata={"kind": int, "least": 16})
    max_num_seqs: int = field(default=16, metadata={"least": 1, "most": 1024})
    max_num_batched_tokens: int = field(default=128, metadata={"least": 16, "most": 8192})
    kv_cache_tokens: int = field(default=16384, metadata={"least": 64})
    enable_prefix_caching: bool = True
    speculative_config: PromptLookup | None = field(default=None, metadata={"section": PromptLookup})
    max_waiting: int = field(default=128, metadata={"least": 1})
    threads: int | None = field(default=None, metadata={"kind": int, "least": 1, "most": 1024})

    @classmethod
    def of(cls, model: Model) -> OpenVinoSettings:
        """Read a version's ``model.json``.

        Raises:
            ModelError: the file is wrong, or asks what the engine lacks; names the key.
        """
        path = model.file(MODEL_FILE)
        settings = read_engine_file(path, cls, ENGINE)
        if settings.kv_cache_tokens < settings.max_model_len:
            raise ModelError(
                f"{path}: kv_cache_tokens {settings.kv_cache_tokens} cannot hold one request of max_model_len "
                f"{settings.max_model_len}; raise the one or lower the other"
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
