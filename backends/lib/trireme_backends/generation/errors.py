"""What a generation raises on purpose. The text that a caller sees begins with a stable word, and names the parameter.

    invalid_request (max_tokens): is -1; it must be at least 1

BackendError
└── GenerationError
    ├── InvalidRequestError    invalid_request           the request is wrong by itself
    ├── ContextLengthError     context_length_exceeded   the prompt is too long for the model
    ├── UnsupportedError       unsupported               the request asks what this engine cannot do
    ├── OverloadedError        overloaded                too many requests wait; the same request may succeed later
    ├── EngineError            engine_failed             the engine or its process failed
    └── CancelledError         cancelled                 the caller went away or took the request back
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

from trireme_backends.errors import BackendError


class GenerationError(BackendError):
    """``word`` is what programs go by; ``param`` the parameter or tensor that is wrong, where it is one."""

    word: ClassVar[str]
    code = "INVALID_ARG"

    def __init__(self, problem: str, *, param: str | None = None) -> None:
        place = f" ({param})" if param else ""
        super().__init__(f"{self.word}{place}: {problem}")
        self.problem, self.param = problem, param


class InvalidRequestError(GenerationError):
    """The request is wrong by itself: no engine takes it."""

    word = "invalid_request"


class ContextLengthError(GenerationError):
    """Prompt and answer do not fit into the model's context; says the numbers."""

    word = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, max_tokens: int | None, context_tokens: int) -> None:
        if prompt_tokens >= context_tokens or max_tokens is None:
            problem, param = f"the prompt has {prompt_tokens} tokens", "prompt"
        else:
            together = prompt_tokens + max_tokens
            problem = f"the prompt has {prompt_tokens} tokens and max_tokens is {max_tokens}, together {together}"
            param = "max_tokens"
        super().__init__(f"{problem}; the model's context is {context_tokens} tokens, prompt and answer", param=param)


def room_for_answer(prompt_tokens: int, max_tokens: int | None, context_tokens: int) -> int:
    """How many tokens the answer may have.

    Raises:
        ContextLengthError: the prompt leaves none, or less than ``max_tokens``.
    """
    room = context_tokens - prompt_tokens
    if room < 1 or (max_tokens is not None and max_tokens > room):
        raise ContextLengthError(prompt_tokens, max_tokens, context_tokens)
    return room if max_tokens is None else max_tokens


class UnsupportedError(GenerationError):
    """The engine of this model lacks what the request asks for."""

    word, code = "unsupported", "UNSUPPORTED"


class OverloadedError(GenerationError):
    """The queue is full."""

    word, code = "overloaded", "UNAVAILABLE"


class EngineError(GenerationError):
    """The engine failed; the request may be right."""

    word, code = "engine_failed", "INTERNAL"


class CancelledError(GenerationError):
    """Nobody waits for the answer any more."""

    word, code = "cancelled", "CANCELLED"


@dataclass(frozen=True, slots=True)
class ErrorText:
    """The parts of an error's text; ``word`` is empty where it is none of the above."""

    word: str
    param: str | None
    problem: str


_TEXT = re.compile(
    rf"({'|'.join(kind.word for kind in GenerationError.__subclasses__())})(?: \(([^)]*)\))?: (.*)", re.DOTALL
)


def read_error(text: str) -> ErrorText:
    """Take apart what a caller got from Triton."""
    found = _TEXT.search(text)
    return ErrorText(found[1], found[2], found[3]) if found else ErrorText("", None, text)
