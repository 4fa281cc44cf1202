"""The differences between engines with OpenAI's API, as data.

Sources: vLLM, ``entrypoints/openai/*/protocol.py``; Text Generation Inference, ``docs/openapi.json`` and
``router/src/server.rs``; TensorRT-LLM, ``serve/openai_protocol.py`` and ``serve/postprocess_handlers.py``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True, slots=True)
class StructuredForm:
    """The place of one kind of structured output in a request body.

    Attributes:
        member: the member of the body.
        value_key: the key of the schema, expression or list in it.
        type: the value of ``type`` in it; "" for none.
    """

    member: str
    value_key: str
    type: str = ""

    def body(self, value: Any) -> dict[str, Any]:
        """The members to add to the request body."""
        kind = {"type": self.type} if self.type else {}
        return {self.member: {**kind, self.value_key: value}}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``/v1/chat/completions`` or ``/v1/completions`` of an engine.

    Attributes:
        parameters: the supported sampling parameters.
        structured: the supported kinds of structured output.
        usage: the ``stream_options`` that request usage; None if the endpoint lacks them and always sends usage.
    """

    parameters: frozenset[str]
    structured: Mapping[str, StructuredForm]
    usage: Mapping[str, bool] | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's variant of the API.

    Attributes:
        name: its name in ``model.json``.
        always: parameters that are sent even with their default, because the engine's default may differ.
        model_alias: the model's name in requests, for engines that read any other name as an adapter; "" for its own.
        adapters_are_models: whether a LoRA adapter is requested by its name in place of the model's.
        one_token_per_chunk: whether each event is one token; otherwise events carry the usage so far.
        keeps_stop_strings: whether the engine leaves the stop string in the text.
        finish_reasons: the engine's finish reasons, mapped to OpenAI's.
        context_error: pattern of the error for a prompt that is too long, with the groups ``context`` and ``prompt``.
        count_path: the endpoint that counts a prompt's tokens, for engines whose error gives only a lower bound.
    """

    name: str
    chat: Endpoint
    completion: Endpoint
    always: frozenset[str]
    model_alias: str = ""
    adapters_are_models: bool = True
    one_token_per_chunk: bool = False
    keeps_stop_strings: bool = False
    finish_reasons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    context_error: re.Pattern[str] | None = None
    count_path: str = ""


_OPENAI = frozenset({"frequency_penalty", "max_tokens", "presence_penalty", "seed", "stop", "temperature", "top_p"})
_EXTENDED = _OPENAI | {
    "ignore_eos",
    "include_stop_str_in_output",
    "min_p",
    "min_tokens",
    "repetition_penalty",
    "skip_special_tokens",
    "stop_token_ids",
    "top_k",
}
# The parameters whose defaults a model's generation_config.json may override.
_ALWAYS = frozenset({"max_tokens", "min_p", "repetition_penalty", "temperature", "top_k", "top_p"})
_USAGE_SO_FAR = {"include_usage": True, "continuous_usage_stats": True}

_VLLM = Endpoint(
    _EXTENDED,
    {kind: StructuredForm("structured_outputs", kind) for kind in ("json", "regex", "choice", "grammar")},
    _USAGE_SO_FAR,
)
_TRTLLM = Endpoint(
    _EXTENDED,
    {
        "json": StructuredForm("response_format", "json_schema", "json_schema"),
        "regex": StructuredForm("response_format", "regex", "regex"),
        "grammar": StructuredForm("response_format", "ebnf", "ebnf"),
    },
    _USAGE_SO_FAR,
)
# It accepts presence_penalty, but applies it as a repetition penalty.
_TGI = _OPENAI - {"presence_penalty"}

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            Dialect(
                "vllm",
                _VLLM,
                _VLLM,
                _ALWAYS,
                context_error=re.compile(
                    r"context length is (?P<context>\d+) tokens.*?(?P<prompt>\d+) input tokens", re.DOTALL
                ),
                count_path="/tokenize",
            ),
            # An adapter would have to be given as a path on the engine's machine.
            Dialect("trtllm", _TRTLLM, _TRTLLM, _ALWAYS, adapters_are_models=False),
            Dialect(
                "tgi",
                Endpoint(
                    _TGI,
                    {kind: StructuredForm("response_format", "value", kind) for kind in ("json", "regex")},
                    {"include_usage": True},
                ),
                Endpoint(_TGI | {"repetition_penalty"}, {}, None),
                # It rejects a top_p of 1.
                frozenset({"max_tokens", "temperature"}),
                model_alias="tgi",
                one_token_per_chunk=True,
                keeps_stop_strings=True,
                finish_reasons=MappingProxyType({"eos_token": "stop", "stop_sequence": "stop"}),
                context_error=re.compile(
                    r"must (?:have less than|be <=) (?P<context>\d+)(?: tokens)?\. Given: (?P<prompt>\d+)"
                ),
            ),
        )
    }
)
