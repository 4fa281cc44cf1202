"""How engines that speak OpenAI's protocol differ, as data.

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
    """Where a request's body carries one kind of structured output.

    Attributes:
        member: the member of the body.
        value_key: in it, the key of the schema, expression or list.
        type: in it, the value of ``type``; "" where there is none.
    """

    member: str
    value_key: str
    type: str = ""

    def body(self, value: Any) -> dict[str, Any]:
        """What to add to the request's body."""
        kind = {"type": self.type} if self.type else {}
        return {self.member: {**kind, self.value_key: value}}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """``/v1/chat/completions`` or ``/v1/completions`` of an engine.

    Attributes:
        parameters: the sampling parameters it takes, by their own names.
        structured: the kinds of structured output it takes.
        usage: what to ask of ``stream_options``; None where it takes none, and tells the usage unasked.
    """

    parameters: frozenset[str]
    structured: Mapping[str, StructuredForm]
    usage: Mapping[str, bool] | None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One engine's form of the protocol.

    Attributes:
        name: as a model's configuration calls it.
        always: parameters that are sent though they are neutral, as the engine may have other defaults.
        model_alias: what requests call the model, where any other name means an adapter; "" for its own name.
        adapters_are_models: a LoRA adapter is asked for by its name in the place of the model's.
        one_token_a_piece: each piece of a stream is one token; else pieces carry the usage so far.
        keeps_stop_strings: the text ends with the stop string, which callers are not to see.
        finish_reasons: its own words for OpenAI's.
        context_error: how it says that a prompt is too long, with the groups ``context`` and ``prompt``.
        count_path: where it counts a prompt's tokens, if its error gives no more than a lower bound.
    """

    name: str
    chat: Endpoint
    completion: Endpoint
    always: frozenset[str]
    model_alias: str = ""
    adapters_are_models: bool = True
    one_token_a_piece: bool = False
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
# What a model's generation_config.json may set.
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
# It takes a presence_penalty, and uses it as a repetition penalty.
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
            # Of an adapter it wants the path on its own machine.
            Dialect("trtllm", _TRTLLM, _TRTLLM, _ALWAYS, adapters_are_models=False),
            Dialect(
                "tgi",
                Endpoint(
                    _TGI,
                    {kind: StructuredForm("response_format", "value", kind) for kind in ("json", "regex")},
                    {"include_usage": True},
                ),
                Endpoint(_TGI | {"repetition_penalty"}, {}, None),
                # It refuses a top_p of 1.
                frozenset({"max_tokens", "temperature"}),
                model_alias="tgi",
                one_token_a_piece=True,
                keeps_stop_strings=True,
                finish_reasons=MappingProxyType({"eos_token": "stop", "stop_sequence": "stop"}),
                context_error=re.compile(
                    r"must (?:have less than|be <=) (?P<context>\d+)(?: tokens)?\. Given: (?P<prompt>\d+)"
                ),
            ),
        )
    }
)
