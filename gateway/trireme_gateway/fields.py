"""Fields of OpenAI's requests, parsed strictly: each either works or is rejected by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from trireme_gateway.errors import ApiError, invalid

_MOST_PROMPTS = 128
_MOST_INPUTS = 2048

# Fields that are rejected, their values that change nothing and are accepted, and why.
_ONE_ANSWER = "one choice is generated per request; send the request again for another"
_NO_TOOLS = "tools are not supported; request JSON with response_format instead"
_TEXT_ONLY = "only text is supported"
_NOT_HERE = "not supported"
_REFUSED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), _ONE_ANSWER),
    "best_of": ((1,), _ONE_ANSWER),
    "logit_bias": (({},), "the engines do not support biases"),
    "tools": (([],), _NO_TOOLS),
    "tool_choice": (("none", "auto"), _NO_TOOLS),
    "functions": (([],), _NO_TOOLS),
    "function_call": (("none", "auto"), _NO_TOOLS),
    "parallel_tool_calls": ((True, False), _NO_TOOLS),
    "modalities": ((["text"],), _TEXT_ONLY),
    "audio": ((), _TEXT_ONLY),
    "prediction": ((), _NOT_HERE),
    "web_search_options": ((), _NOT_HERE),
    "moderation": ((), _NOT_HERE),
    "prompt_cache_options": ((), "prefixes are cached by the engine, without options"),
    "suffix": (("",), _NOT_HERE),
}
# Hints that clients send unasked, without effect here: nothing is stored, prefixes are cached while there is memory,
# models do not reason, and x-trireme-tier chooses the tier.
_IGNORED = {"store", "metadata", "reasoning_effort", "verbosity", "service_tier", "prompt_cache_retention"}


class _Fields(BaseModel):
    """``user``, ``safety_identifier`` and ``prompt_cache_key`` name the caller; see ``sticky_key``."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    user: Annotated[str, Field(max_length=256)] | None = None

    @property
    def sticky_key(self) -> str | None:
        """The key that keeps requests of one user on one side of a canary."""
        return self.user or None


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool = False
    include_obfuscation: Literal[False] = False


class _GenerationFields(_Fields):
    max_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: (
        Annotated[str, Field(min_length=1)]
        | Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=4)]
        | None
    ) = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    # Not OpenAI's: vLLM's extensions, which its clients send in extra_body.
    top_k: int | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0)] | None = None
    ignore_eos: bool | None = None

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    def sampling(self) -> dict[str, Any]:
        """The sampling parameters under the engines' names; without ``max_tokens`` the model's context is the limit."""
        names = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "stop", "top_k", "min_p",
                 "min_tokens", "repetition_penalty", "ignore_eos")  # fmt: skip
        found = {name: value for name in names if (value := getattr(self, name)) is not None}
        if self.seed is not None:
            # OpenAI's seed may be negative.
            found["seed"] = self.seed % 2**63
        return {"max_tokens": self.max_tokens, **found}


class TextPart(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text"]
    text: str
    cache_control: Any = None


class Message(BaseModel):
    """A message.

    Fields that must be null are accepted because callers send back whole response messages; ``name``,
    ``reasoning_content`` and ``cache_control`` are accepted and have no effect.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1)]
    name: str | None = None
    reasoning_content: str | None = None
    cache_control: Any = None
    refusal: None = None
    annotations: Annotated[list[Any], Field(max_length=0)] | None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None

    def plain(self) -> dict[str, str]:
        """The message as chat templates expect it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class JsonSchema(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class ResponseFormat(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatFields(_GenerationFields):
    """``POST /v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    logprobs: bool = False
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    response_format: ResponseFormat | None = None
    safety_identifier: Annotated[str, Field(max_length=256)] | None = None
    prompt_cache_key: Annotated[str, Field(max_length=256)] | None = None

    @property
    def sticky_key(self) -> str | None:
        return self.user or self.safety_identifier or self.prompt_cache_key or None

    def check(self) -> None:
        if self.max_completion_tokens is not None and self.max_tokens is not None:
            raise invalid("max_tokens", "conflicts with max_completion_tokens; send only one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("top_logprobs", "requires logprobs: true")
        if self.response_format is not None:
            schema = self.response_format.json_schema is not None
            if schema != (self.response_format.type == "json_schema"):
                raise invalid("response_format.json_schema", "requires type json_schema, and is required by it")

    def sampling(self) -> dict[str, Any]:
        found = super().sampling()
        if self.max_completion_tokens is not None:
            found["max_tokens"] = self.max_completion_tokens
        if self.logprobs:
            found["logprobs"] = self.top_logprobs or 0
        form = self.response_format
        if form is not None and form.json_schema is not None:
            found["structured_outputs"] = {"json": form.json_schema.schema_}
        elif form is not None and form.type == "json_object":
            found["structured_outputs"] = {"json": {"type": "object"}}
        return found


class CompletionFields(_GenerationFields):
    """``POST /v1/completions``."""

    prompt: str | Annotated[list[str], Field(min_length=1, max_length=_MOST_PROMPTS)]
    echo: bool = False
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    def check(self) -> None:
        if "" in self.prompts:
            raise invalid("prompt", "is empty; write a text to continue")
        if self.echo and self.logprobs is not None:
            raise invalid("echo", "log probabilities of the prompt are not supported; remove echo or logprobs")

    def sampling(self) -> dict[str, Any]:
        found = super().sampling()
        return found if self.logprobs is None else {**found, "logprobs": self.logprobs}


class EmbeddingFields(_Fields):
    """``POST /v1/embeddings``."""

    input: str | Annotated[list[str], Field(min_length=1, max_length=_MOST_INPUTS)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input

    def check(self) -> None:
        if "" in self.texts:
            raise invalid("input", "contains an empty text")


F = TypeVar("F", ChatFields, CompletionFields, EmbeddingFields)


def read_fields(kind: type[F], body: bytes) -> F:
    """Parse a request's body.

    Raises:
        ApiError: 400, the body is not JSON or a field is invalid; ``param`` names it.
    """
    try:
        document = from_json(body)
    except ValueError as error:
        raise invalid(None, f"The body is not valid JSON in UTF-8: {error}", code="invalid_json") from None
    if not isinstance(document, dict):
        raise invalid(None, "The body must be a JSON object", code="invalid_json")
    for name, (neutral, why) in _REFUSED.items():
        # A null field counts as absent; True == 1, but is not a number.
        value = document.get(name)
        if value is not None and not any(value == one and type(value) is type(one) for one in neutral):
            raise invalid(name, why, code="unsupported_parameter")
    given = {
        name: value for name, value in document.items() if value is not None and name not in _REFUSED.keys() | _IGNORED
    }
    try:
        fields = kind.model_validate(given)
    except ValidationError as error:
        raise _field_error(error) from None
    if isinstance(fields, (ChatFields, CompletionFields)) and fields.stream_options and not fields.stream:
        raise invalid("stream_options", "requires stream: true")
    fields.check()
    return fields


def _field_error(error: ValidationError) -> ApiError:
    """The error for one of pydantic's faults; fields are named as OpenAI does: ``messages[0].content``."""
    # Every member of a union reports a fault: the intended one got furthest, and did not fail at its type.
    found = max(
        error.errors(include_url=False, include_context=False),
        key=lambda one: (len(one["loc"]), not one["type"].endswith("_type")),
    )
    param = ""
    for step in found["loc"]:
        # A step in lower case is a field; others are pydantic's names for members of a union.
        if isinstance(step, int):
            param += f"[{step}]"
        elif step.isidentifier() and step not in ("str", "list"):
            param += f".{step}" if param else step
    if found["type"] == "extra_forbidden":
        return invalid(param, "unknown parameter", code="unknown_parameter")
    if found["type"] == "missing":
        return invalid(param, "is missing", code="missing_required_parameter")
    name = param.partition("[")[0]
    if name in ("prompt", "input") and found["type"] == "string_type" and isinstance(found["input"], (int, list)):
        return invalid(name, "token ids are not supported; send text", code="invalid_type")
    return invalid(param, f"{found['msg']}, got {found.get('input')!r:.80}")
