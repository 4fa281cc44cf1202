"""How engines that speak OpenAI's protocol differ, as data.

Sources: vLLM 0.32, ``entrypoints/openai/*/protocol.py``; Text Generation Inference 2.4, ``docs/openapi.json`` and
``router/src/server.rs``; TensorRT-LLM 1.2, ``serve/openai_protocol.py``.
"""

from __future__ import annotations

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
class Dialect:
    """One engine's form of the protocol.

    Attributes:
        name: as a model's configuration calls it.
        chat, completion: the sampling parameters that ``/v1/chat/completions`` and ``/v1/completions`` take.
        chat_structured, completion_structured: the kinds of structured output they take.
        completion_usage_option: whether a completion may ask for its usage; else it comes unasked.
        model_alias: what to call the model in requests, where a name other than this one would mean an adapter.
        adapters_are_models: a LoRA adapter is asked for by its name in the place of the model's.
        keeps_stop_strings: the text ends with the stop string, which callers are not to see.
        finish_reasons: its own words for OpenAI's.
    """

    name: str
    chat: frozenset[str]
    completion: frozenset[str]
    chat_structured: Mapping[str, StructuredForm]
    completion_structured: Mapping[str, StructuredForm]
    completion_usage_option: bool = True
    model_alias: str = ""
    adapters_are_models: bool = True
    keeps_stop_strings: bool = False
    finish_reasons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


_OPENAI = frozenset({"frequency_penalty", "max_tokens", "presence_penalty", "seed", "stop", "temperature", "top_p"})
_SHARED_EXTENSIONS = frozenset(
    {
        "ignore_eos",
        "include_stop_str_in_output",
        "logit_bias",
        "logprobs",
        "min_p",
        "min_tokens",
        "repetition_penalty",
        "skip_special_tokens",
        "spaces_between_special_tokens",
        "stop_token_ids",
        "top_k",
        "truncate_prompt_tokens",
    }
)
_VLLM = _OPENAI | _SHARED_EXTENSIONS | {"allowed_token_ids", "bad_words"}
_VLLM_STRUCTURED = {
    kind: StructuredForm("structured_outputs", kind) for kind in ("json", "regex", "choice", "grammar", "json_object")
}
_TRTLLM_STRUCTURED = {
    "json": StructuredForm("response_format", "json_schema", "json_schema"),
    "regex": StructuredForm("response_format", "regex", "regex"),
    "grammar": StructuredForm("response_format", "ebnf", "ebnf"),
}
_TGI_STRUCTURED = {
    "json": StructuredForm("response_format", "value", "json"),
    "regex": StructuredForm("response_format", "value", "regex"),
}

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            Dialect("vllm", _VLLM, _VLLM, _VLLM_STRUCTURED, _VLLM_STRUCTURED),
            Dialect(
                "trtllm",
                _OPENAI | _SHARED_EXTENSIONS,
                _OPENAI | _SHARED_EXTENSIONS,
                _TRTLLM_STRUCTURED,
                _TRTLLM_STRUCTURED,
                # It wants an adapter's path on its own machine.
                adapters_are_models=False,
            ),
            Dialect(
                "tgi",
                # It takes a presence_penalty, and uses it as a repetition penalty.
                _OPENAI - {"presence_penalty"} | {"logprobs"},
                _OPENAI - {"presence_penalty"} | {"repetition_penalty"},
                _TGI_STRUCTURED,
                {},
                completion_usage_option=False,
                model_alias="tgi",
                keeps_stop_strings=True,
                finish_reasons=MappingProxyType({"eos_token": "stop", "stop_sequence": "stop"}),
            ),
        )
    }
)
