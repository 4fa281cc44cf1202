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
    """Speculative decoding: proposes what followed an earlier occurrence of the last tokens, verified in one step.

    Attributes:
        num_speculative_tokens: proposed tokens per step.
        prompt_lookup_max: number of last tokens to search for.
    """

    method: Literal["ngram"]
    num_speculative_tokens: Annotated[int, Range(1, 32)] = 5
    prompt_lookup_max: Annotated[int, Range(1, 16)] = 3


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
