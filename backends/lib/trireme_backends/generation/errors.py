"""Errors of generation. A message begins with a stable kind and names the parameter.

    invalid_request (max_tokens): is -1; it must be at least 1

BackendError
└── GenerationError
    ├── InvalidRequestError    invalid_request           the request is invalid for every engine
    ├── ContextLengthError     context_length_exceeded   the prompt is too long for the model
    ├── UnsupportedError       unsupported               the engine lacks a feature that the request uses
    ├── OverloadedError        overloaded                too many requests are queued; a retry may succeed later
    ├── EngineError            engine_failed             the engine or its process failed
    └── CancelledError         cancelled                 the caller disconnected or cancelled the request
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from trireme_backends.errors import BackendError


class GenerationError(BackendError):
    """``kind`` is stable, for programs; ``code`` is Triton's; ``param`` is the invalid parameter or tensor, if any."""

    kind: ClassVar[str]
    code = "INVALID_ARG"

    def __init__(self, problem: str, *, param: str | None = None) -> None:
        place = f" ({param})" if param else ""
        super().__init__(f"{self.kind}{place}: {problem}")
        self.problem, self.param = problem, param


class InvalidRequestError(GenerationError):
    """The request is invalid for every engine."""

    kind = "invalid_request"


class ContextLengthError(GenerationError):
    """Prompt and output exceed the model's context; gives the numbers."""

    kind = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, max_tokens: int | None, context_tokens: int) -> None:
        if prompt_tokens >= context_tokens or max_tokens is None:
            problem, param = f"the prompt has {prompt_tokens} tokens", "prompt"
        else:
            total = prompt_tokens + max_tokens
            problem = f"the prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}, {total} in total"
            param = "max_tokens"
        super().__init__(f"{problem}; the model's context is {context_tokens} tokens, prompt and output", param=param)


def output_token_limit(prompt_tokens: int, max_tokens: int | None, context_tokens: int) -> int:
    """The maximum number of output tokens.

    Raises:
        ContextLengthError: the prompt leaves no tokens, or fewer than ``max_tokens``.
    """
    available = context_tokens - prompt_tokens
    if available < 1 or (max_tokens is not None and max_tokens > available):
        raise ContextLengthError(prompt_tokens, max_tokens, context_tokens)
    return available if max_tokens is None else max_tokens


class UnsupportedError(GenerationError):
    """The model's engine lacks a feature that the request uses."""

    kind, code = "unsupported", "UNSUPPORTED"


class OverloadedError(GenerationError):
    """The queue is full."""

    kind, code = "overloaded", "UNAVAILABLE"


class EngineError(GenerationError):
    """The engine failed; the request may be valid."""

    kind, code = "engine_failed", "INTERNAL"


class CancelledError(GenerationError):
    """The caller no longer waits for the response."""

    kind, code = "cancelled", "CANCELLED"


@dataclass(frozen=True, slots=True)
class ErrorText:
    """The parts of an error message; ``kind`` is empty if the message is not one of these errors."""

    kind: str
    param: str | None
    problem: str


_TEXT = re.compile(
    rf"({'|'.join(error.kind for error in GenerationError.__subclasses__())})(?: \(([^)]*)\))?: (.*)", re.DOTALL
)


def read_error(text: str) -> ErrorText:
    """Parse an error message that a caller received from Triton."""
    found = _TEXT.search(text)
    return ErrorText(found[1], found[2], found[3]) if found else ErrorText("", None, text)
