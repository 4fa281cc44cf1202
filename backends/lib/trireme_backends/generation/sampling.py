"""``sampling_parameters`` of a request, named after vLLM's ``SamplingParams``.

Every default is neutral, so an engine that lacks a parameter rejects it only if it is set.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from trireme_backends.generation.errors import InvalidRequestError, UnsupportedError

# vLLM's default; a text that is cut off has the finish reason "length".
DEFAULT_MAX_TOKENS = 16
MAX_STOP_STRINGS = 16
_MAX_SCHEMA_CHARACTERS = 64 * 1024
_MAX_INTEGER = 2**31 - 1

_LIMITS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 100.0),
    "top_p": (0.0, 1.0),
    "top_k": (-1, _MAX_INTEGER),
    "min_p": (0.0, 1.0),
    "max_tokens": (1, _MAX_INTEGER),
    "min_tokens": (0, _MAX_INTEGER),
    "seed": (0, 2**63 - 1),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "repetition_penalty": (0.01, 100.0),
    "logprobs": (0, 20),
}
_INTEGERS = {"top_k", "max_tokens", "min_tokens", "seed", "logprobs"}
_FLAGS = {"ignore_eos", "include_stop_str_in_output", "skip_special_tokens"}


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """The constraint on the output; exactly one is set.

    Attributes:
        json: a JSON schema, as JSON text.
        regex: a regular expression.
        choice: the allowed outputs.
        grammar: a grammar in EBNF.
    """

    json: str | None = None
    regex: str | None = None
    choice: tuple[str, ...] | None = None
    grammar: str | None = None

    @property
    def kind(self) -> str:
        """The name of the constraint that is set."""
        return next(field.name for field in dataclasses.fields(self) if getattr(self, field.name) is not None)


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """``temperature`` 0 is greedy; ``top_k`` 0 or -1 is disabled; ``seed`` None is random.

    Attributes:
        max_tokens: maximum output tokens; None (``null`` in JSON): the rest of the model's context.
        min_tokens: minimum output tokens.
        stop: strings that end the output; they are removed from it unless ``include_stop_str_in_output``.
        logprobs: number of most probable alternatives to report with each token; None for no log probabilities.
        lora_name: the LoRA adapter to use.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    max_tokens: int | None = DEFAULT_MAX_TOKENS
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    structured_outputs: StructuredOutputs | None = None
    lora_name: str | None = None

    @classmethod
    def parse(cls, text: str) -> SamplingParameters:
        """Parse a JSON object. Numbers may be strings, as in the samples of Triton's vLLM backend.

        Raises:
            InvalidRequestError: not a JSON object, or an invalid type or value; names the key.
            UnsupportedError: an unknown key, or more than one output.
        """
        try:
            document = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            raise InvalidRequestError(f"not JSON: {error}", param="sampling_parameters") from None
        if not isinstance(document, dict):
            raise InvalidRequestError(f"is {_shown(document)}; it must be an object", param="sampling_parameters")
        known = {field.name for field in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, value in document.items():
            if key in ("n", "best_of"):
                if value not in (1, None):
                    raise UnsupportedError(f"is {_shown(value)}; only one output per request is supported", param=key)
            elif key not in known:
                raise UnsupportedError(f"unknown parameter; available: {', '.join(sorted(known))}", param=str(key))
            elif value is not None:
                values[key] = _read(key, value)
            elif key == "max_tokens":
                values[key] = None
        parameters = cls(**values)
        if parameters.max_tokens is not None and parameters.min_tokens > parameters.max_tokens:
            raise InvalidRequestError(
                f"is {parameters.min_tokens}; it must be at most max_tokens {parameters.max_tokens}", param="min_tokens"
            )
        return parameters

    def require(self, supported: Collection[str], engine: str) -> None:
        """Check that an engine supports all parameters that are set.

        Args:
            supported: field names, and ``structured_outputs.json`` and the like.

        Raises:
            UnsupportedError: a parameter is not supported.
        """
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            name = f"{field.name}.{value.kind}" if isinstance(value, StructuredOutputs) else field.name
            if value != field.default and name not in supported:
                raise UnsupportedError(f"the engine {engine} does not support this parameter", param=name)


def _read(key: str, value: Any) -> Any:
    if key in _LIMITS:
        return _number(key, value)
    if key in _FLAGS:
        if not isinstance(value, bool):
            raise InvalidRequestError(f"is {_shown(value)}; it must be true or false", param=key)
        return value
    if key == "stop":
        return _stop_strings(value)
    if key == "stop_token_ids":
        if not isinstance(value, list) or not all(type(one) is int and 0 <= one <= _MAX_INTEGER for one in value):
            raise InvalidRequestError(f"is {_shown(value)}; it must be a list of token ids", param=key)
        return tuple(value)
    if key == "lora_name":
        if not isinstance(value, str):
            raise InvalidRequestError(f"is {_shown(value)}; it must be the name of an adapter", param=key)
        return value
    return _structured_outputs(value)


def _number(key: str, value: Any) -> float | int:
    minimum, maximum = _LIMITS[key]
    kind = "an integer" if key in _INTEGERS else "a number"
    number = _as_number(value, integer=key in _INTEGERS)
    if number is None:
        raise InvalidRequestError(f"is {_shown(value)}; it must be {kind}", param=key)
    if not minimum <= number <= maximum:
        raise InvalidRequestError(f"is {_shown(value)}; it must be {kind} from {minimum} to {maximum}", param=key)
    return number


def _as_number(value: Any, *, integer: bool) -> float | int | None:
    """``value`` as a number; None if it is not one. Integers bypass float, which cannot hold every seed."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        if integer and not isinstance(value, float):
            return int(value)
        number = float(value)
    except (ValueError, OverflowError):
        return None
    if math.isnan(number) or (integer and not number.is_integer()):
        return None
    return int(number) if integer else number


def _stop_strings(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value
    if not isinstance(stops, list) or not all(isinstance(one, str) and one for one in stops):
        raise InvalidRequestError(f"is {_shown(value)}; it must be non-empty strings", param="stop")
    if len(stops) > MAX_STOP_STRINGS:
        raise InvalidRequestError(f"has {len(stops)} strings; the maximum is {MAX_STOP_STRINGS}", param="stop")
    return tuple(stops)


def _structured_outputs(value: Any) -> StructuredOutputs:
    param = "structured_outputs"
    kinds = [field.name for field in dataclasses.fields(StructuredOutputs)]
    if not isinstance(value, Mapping) or len(value) != 1 or next(iter(value)) not in kinds:
        raise InvalidRequestError(
            f"is {_shown(value)}; it must be an object with exactly one of {', '.join(kinds)}", param=param
        )
    kind, content = next(iter(value.items()))
    if kind == "choice":
        if not isinstance(content, list) or not content or not all(isinstance(one, str) and one for one in content):
            raise InvalidRequestError("choice must be a list of non-empty strings", param=param)
        return StructuredOutputs(choice=tuple(content))
    if kind == "json" and isinstance(content, (dict, bool)):
        content = json.dumps(content)
    if not isinstance(content, str) or not content:
        raise InvalidRequestError(f"{kind} is {_shown(content)}; it must be a non-empty string", param=param)
    if len(content) > _MAX_SCHEMA_CHARACTERS:
        raise InvalidRequestError(
            f"{kind} has {len(content)} characters; the maximum is {_MAX_SCHEMA_CHARACTERS}", param=param
        )
    if kind == "json":
        try:
            if not isinstance(json.loads(content), (dict, bool)):
                raise InvalidRequestError(f"json is {_shown(content)}; it must be a JSON schema", param=param)
        except (ValueError, RecursionError):
            raise InvalidRequestError("json is not JSON; it must be a JSON schema", param=param) from None
    values: dict[str, Any] = {kind: content}
    return StructuredOutputs(**values)


def _shown(value: Any) -> str:
    """A value for an error message, truncated."""
    return f"{value!r:.80}"
