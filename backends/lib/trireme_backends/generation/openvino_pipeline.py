"""Adapter for ``ContinuousBatchingPipeline`` of openvino-genai."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import ModelError
from trireme_backends.generation.contract import GenerationRequest, Message
from trireme_backends.generation.errors import ContextLengthError, InvalidRequestError, UnsupportedError
from trireme_backends.generation.json_schema import check_schema
from trireme_backends.generation.openvino_settings import ENGINE, OpenVinoSettings
from trireme_backends.generation.sampling import SamplingParameters, StructuredOutputs

TokenIds = npt.NDArray[np.int64]

SUPPORTED = frozenset({
    "temperature", "top_p", "top_k", "min_p", "max_tokens", "min_tokens", "stop", "stop_token_ids", "seed",
    "presence_penalty", "frequency_penalty", "repetition_penalty", "logprobs", "ignore_eos",
    "include_stop_str_in_output", "structured_outputs.json", "structured_outputs.regex", "structured_outputs.choice",
})  # fmt: skip
_KV_BLOCK_TOKENS = 32
# A tokenizer truncates to the model's context, so longer texts are counted in parts of this size.
_COUNTED_CHARACTERS = 4096
# Regular expression syntax that Python supports and the grammar compiler does not.
_NOT_REGULAR = re.compile(r"\(\?(?!:)|\\[1-9bBAZ]")


@dataclass(frozen=True, slots=True)
class Load:
    """The load of the last step: its number of requests, and the fraction of the KV cache in use, from 0 to 1."""

    scheduled: int
    cache_usage: float


class OpenVinoPipeline:
    """One loaded model. ``add`` and ``step`` must be called from one thread; the other methods are thread-safe."""

    def __init__(self, weights: Path, settings: OpenVinoSettings) -> None:
        """Load the model.

        Raises:
            ModelError: the library cannot load the file, or the model's context is too short.
        """
        # Disables telemetry: parts of the library send usage reports if this package is importable.
        sys.modules.setdefault("openvino_telemetry", cast(ModuleType, None))
        import openvino
        import openvino_genai

        self._openvino, self._genai, self._settings = openvino, openvino_genai, settings
        scheduler = openvino_genai.SchedulerConfig()
        scheduler.cache_size = 0
        scheduler.num_kv_blocks = -(-settings.kv_cache_tokens // _KV_BLOCK_TOKENS)
        scheduler.max_num_seqs = settings.max_num_seqs
        scheduler.max_num_batched_tokens = settings.max_num_batched_tokens
        scheduler.enable_prefix_caching = settings.enable_prefix_caching
        properties: dict[str, Any] = {"INFERENCE_NUM_THREADS": settings.thread_count()}
        if settings.speculative_config:
            properties["prompt_lookup"] = True
        try:
            with _writable(weights) as file:
                self._pipeline = openvino_genai.ContinuousBatchingPipeline(str(file), scheduler, "CPU", properties)
        except RuntimeError as error:
            raise ModelError(f"{ENGINE} cannot load {weights}: {_first_line(error)}") from None
        self._tokenizer = self._pipeline.get_tokenizer()
        context = self._encode("a " * (settings.max_model_len + 1), add_special_tokens=False).shape[1]
        if context < settings.max_model_len:
            raise ModelError(f"{weights} has a context of {context} tokens; lower max_model_len to this value")
        self._warm_up()

    def prompt_ids(self, request: GenerationRequest) -> TokenIds:
        """The prompt as tokens, shape [1, tokens].

        Raises:
            InvalidRequestError: the chat template rejects the messages.
            ContextLengthError: the prompt alone fills the context.
        """
        is_chat = request.messages is not None
        text = self._apply_template(request.messages) if request.messages is not None else request.prompt or ""
        tokens = self._encode(text, add_special_tokens=not is_chat)
        if tokens.shape[1] >= self._settings.max_model_len:
            raise ContextLengthError(max(self._count(text), tokens.shape[1]), None, self._settings.max_model_len)
        return tokens

    def decode(self, tokens: list[int]) -> str:
        return str(self._tokenizer.decode(tokens))

    def add(self, number: int, prompt: TokenIds, sampling: SamplingParameters, max_tokens: int) -> Any:
        """Add a request; returns its handle.

        Raises:
            InvalidRequestError: the library rejects the parameters.
        """
        try:
            config = self._generation_config(sampling, max_tokens)
            return self._pipeline.add_request(number, self._openvino.Tensor(prompt), config)
        except RuntimeError as error:
            raise InvalidRequestError(_first_line(error), param="sampling_parameters") from None

    def step(self) -> None:
        """Run one forward pass: one token for each request in the batch, or a part of a prompt.

        Raises:
            RuntimeError: the pipeline is no longer usable.
        """
        self._pipeline.step()

    def is_busy(self) -> bool:
        return bool(self._pipeline.has_non_finished_requests())

    def load(self) -> Load:
        metrics = self._pipeline.get_metrics()
        return Load(metrics.scheduled_requests, metrics.cache_usage / 100)

    def has_finished(self, handle: Any) -> bool:
        return bool(handle.get_status() != self._genai.GenerationStatus.RUNNING)

    def finish_reason(self, reason: Any) -> str | None:
        reasons = self._genai.GenerationFinishReason
        return {reasons.STOP: "stop", reasons.LENGTH: "length"}.get(reason)

    def text_logprobs(self, text: str) -> list[float]:
        """The log probability of each token of a text except the first. Requires prefix caching to be disabled."""
        config = self._pipeline.get_config()
        config.apply_chat_template = False
        config.max_new_tokens, config.echo, config.logprobs = 0, True, 1
        prompt = self._encode(text, add_special_tokens=False)
        handle = self._pipeline.add_request(1, self._openvino.Tensor(prompt), config)
        logprobs: list[float] = []
        while self.is_busy():
            self.step()
            while handle.can_read():
                for output in handle.read().values():
                    logprobs += output.generated_log_probs
        return logprobs[1:]

    def _warm_up(self) -> None:
        """Run the first step, which allocates for a second, before any request."""
        self.add(0, self._encode("a", add_special_tokens=False), SamplingParameters(temperature=0.0), 2)
        while self.is_busy():
            self.step()

    def _encode(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        encoded = self._tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return np.array(encoded.input_ids.data, dtype=np.int64)

    def _count(self, text: str) -> int:
        """The number of tokens of a text of any length; it is split before spaces, where tokens begin."""
        parts = re.findall(rf"(?s).{{1,{_COUNTED_CHARACTERS}}}(?=\s|\Z)|.{{{_COUNTED_CHARACTERS}}}", text)
        return int(self._tokenizer.encode(parts, add_special_tokens=False).attention_mask.data.sum())

    def _apply_template(self, messages: tuple[Message, ...]) -> str:
        history = [{"role": message.role, "content": message.content} for message in messages]
        try:
            return str(self._tokenizer.apply_chat_template(history, True))
        except RuntimeError as error:
            raise InvalidRequestError(
                f"the model's chat template failed: {_first_line(error)}", param="messages"
            ) from None

    def _generation_config(self, sampling: SamplingParameters, max_tokens: int) -> Any:
        config = self._pipeline.get_config()
        config.apply_chat_template = False
        config.max_new_tokens, config.min_new_tokens = max_tokens, sampling.min_tokens
        config.ignore_eos = sampling.ignore_eos
        config.presence_penalty = sampling.presence_penalty
        config.frequency_penalty = sampling.frequency_penalty
        config.repetition_penalty = sampling.repetition_penalty
        config.stop_token_ids = config.stop_token_ids | set(sampling.stop_token_ids)
        config.logprobs = 0 if sampling.logprobs is None else 1
        if sampling.temperature > 0:
            config.do_sample = True
            config.temperature = sampling.temperature
            config.top_p = max(sampling.top_p, 1e-6)
            config.min_p = sampling.min_p
            if sampling.top_k > 0:
                config.top_k = sampling.top_k
            # The library's default is a fixed seed.
            config.rng_seed = secrets.randbits(32) if sampling.seed is None else sampling.seed
        if sampling.structured_outputs:
            config.structured_output_config = self._structured(sampling.structured_outputs)
        if lookup := self._settings.speculative_config:
            config.num_assistant_tokens = lookup.num_speculative_tokens
            config.max_ngram_size = lookup.prompt_lookup_max
        return config

    def _structured(self, outputs: StructuredOutputs) -> Any:
        config = self._genai.StructuredOutputConfig
        if outputs.choice is not None:
            return config(compound_grammar=config.Union([config.ConstString(one) for one in outputs.choice]))
        return config(regex=outputs.regex) if outputs.regex is not None else config(json_schema=outputs.json)


def check_sampling(sampling: SamplingParameters) -> None:
    """Reject what the engine does not support, and what would fail during a step.

    Raises:
        UnsupportedError, InvalidRequestError: names the parameter.
    """
    sampling.require(SUPPORTED, ENGINE)
    if sampling.logprobs:
        raise UnsupportedError(
            f"the engine {ENGINE} reports only the chosen token; set logprobs to 0", param="logprobs"
        )
    structured = sampling.structured_outputs
    if structured and structured.json is not None:
        check_schema(json.loads(structured.json))
    if structured and structured.regex is not None:
        try:
            re.compile(structured.regex)
        except re.error as error:
            raise InvalidRequestError(f"regex: {error}", param="structured_outputs") from None
        if found := _NOT_REGULAR.search(structured.regex):
            raise UnsupportedError(f"regex: {found[0]!r} is not supported", param="structured_outputs")


def _first_line(error: Exception) -> str:
    """The first line of the library's message that is not about its own source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if "/home/" not in line] or lines
    return lines[0][:300] if lines else type(error).__name__


@contextlib.contextmanager
def _writable(weights: Path) -> Iterator[Path]:
    """A writable path of the weights, a copy if necessary: the library opens GGUF files for writing, but only reads."""
    if os.access(weights, os.W_OK):
        yield weights
        return
    with tempfile.TemporaryDirectory(prefix="trireme-weights-") as directory:
        yield Path(shutil.copy(weights, directory))
