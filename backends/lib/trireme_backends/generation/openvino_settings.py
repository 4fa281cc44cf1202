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
    """Speculative decoding: proposes what followed an earlier occurrence of the last tokens, verified in one step.

    Attributes:
        num_speculative_tokens: proposed tokens per step.
        prompt_lookup_max: number of last tokens to search for.
    """

    method: str = field(metadata={"kind": str, "choices": ("ngram",)})
    num_speculative_tokens: int = field(default=5, metadata={"minimum": 1, "maximum": 32})
    prompt_lookup_max: int = field(default=3, metadata={"minimum": 1, "maximum": 16})


@dataclass(frozen=True, slots=True)
class OpenVinoSettings:
    """The settings of an engine. Keys with vLLM's names have vLLM's meaning.

    Attributes:
        model: the version's GGUF file, or its directory of OpenVINO IR files; weights keep their stored precision.
        max_model_len: maximum tokens of prompt and output.
        max_num_seqs: maximum requests in a batch; more wait.
        max_num_batched_tokens: maximum tokens in a step; a longer prompt is computed in several steps, together with
            the tokens of other requests.
        kv_cache_tokens: size of the KV cache for all requests. When it is full, the youngest request is preempted and
            recomputed later.
        max_waiting: maximum queued requests; more are rejected.
        threads: compute threads; None: half of the cores, so that two replicas fit on a machine.
    """

    model: str = field(metadata={"kind": str})
    max_model_len: int = field(metadata={"kind": int, "minimum": 16})
    max_num_seqs: int = field(default=16, metadata={"minimum": 1, "maximum": 1024})
    max_num_batched_tokens: int = field(default=128, metadata={"minimum": 16, "maximum": 8192})
    kv_cache_tokens: int = field(default=16384, metadata={"minimum": 64})
    enable_prefix_caching: bool = True
    speculative_config: PromptLookup | None = field(default=None, metadata={"section": PromptLookup})
    max_waiting: int = field(default=128, metadata={"minimum": 1})
    threads: int | None = field(default=None, metadata={"kind": int, "minimum": 1, "maximum": 1024})

    @classmethod
    def of(cls, model: Model) -> OpenVinoSettings:
        """Read a version's ``model.json``.

        Raises:
            ModelError: the file is invalid, or has a key that the engine lacks; names the key.
        """
        path = model.file(MODEL_FILE)
        settings = read_engine_file(path, cls, ENGINE)
        if settings.kv_cache_tokens < settings.max_model_len:
            raise ModelError(
                f"{path}: kv_cache_tokens {settings.kv_cache_tokens} cannot hold one request of max_model_len "
                f"{settings.max_model_len}; raise kv_cache_tokens or lower max_model_len"
            )
        return settings

    def weights(self, model: Model) -> Path:
        """The path of ``model``.

        Raises:
            ModelError: it is not in the version directory.
        """
        path = (model.version_dir / self.model).resolve()
        if not path.is_relative_to(model.version_dir.resolve()) or not path.exists():
            raise ModelError(f"model '{model.name}': {path} is missing; export the model, or restore the file")
        return path

    def thread_count(self) -> int:
        return self.threads or max(1, len(os.sched_getaffinity(0)) // 2)
