"""Maps the errors of an engine with OpenAI's API to the contract's errors."""

from __future__ import annotations

import json
from typing import Any

from trireme_backends.generation.errors import (
    ContextLengthError,
    EngineError,
    GenerationError,
    InvalidRequestError,
    OverloadedError,
)
from trireme_backends.generation.openai_dialects import Dialect

# Text Generation Inference sends only the type of an error once the stream has begun.
_STATUS_OF_TYPE = {
    "validation": 422,
    "overloaded": 429,
    "generation": 424,
    "incomplete_generation": 500,
    "BadRequestError": 400,
}
_MAX_MESSAGE_CHARACTERS = 500


def error_of_response(
    status: int, body: str, dialect: Dialect, max_tokens: int | None = None, prompt_tokens: int | None = None
) -> GenerationError:
    """The error of an unsuccessful response to a request for ``max_tokens``.

    Args:
        prompt_tokens: the engine's count; None to use the count in the error.
    """
    try:
        document = json.loads(body)
    except ValueError:
        document = {"message": body.strip()}
    return _error(status, document, dialect, max_tokens, prompt_tokens)


def error_of_event(document: dict[str, Any], dialect: Dialect, max_tokens: int | None) -> GenerationError | None:
    """The error of an event of a stream; None if the event is not an error."""
    if "error" not in document and document.get("object") != "error":
        return None
    return _error(500, document, dialect, max_tokens)


def _error(
    status: int, document: Any, dialect: Dialect, max_tokens: int | None, prompt_tokens: int | None = None
) -> GenerationError:
    # OpenAI and vLLM nest an object; TensorRT-LLM is flat or has a string; Text Generation Inference has a string.
    detail = document if isinstance(document, dict) else {}
    if isinstance(detail.get("error"), dict):
        detail = detail["error"]
    message = str(detail.get("message") or detail.get("error") or "no reason given")[:_MAX_MESSAGE_CHARACTERS]
    if isinstance(detail.get("code"), int):
        status = detail["code"]
    else:
        status = _STATUS_OF_TYPE.get(str(detail.get("error_type") or detail.get("type")), status)
    found = dialect.context_error.search(message) if dialect.context_error else None
    if found:
        return ContextLengthError(prompt_tokens or int(found["prompt"]), max_tokens, int(found["context"]))
    if status in (429, 503):
        return OverloadedError(f"the {dialect.name} engine is overloaded: {message}")
    if status in (401, 403):
        return EngineError(f"the {dialect.name} engine rejected the API key; check api_key_file")
    if status in (400, 404, 413, 422):
        param = detail.get("param")
        return InvalidRequestError(message, param=param if isinstance(param, str) else None)
    return EngineError(f"the {dialect.name} engine returned {status}: {message}")
