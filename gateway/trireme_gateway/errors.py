"""Errors of the gateway as OpenAI's error object and an HTTP status."""

from __future__ import annotations

import json
import re
from typing import Any

import click
from trireme_client import (
    ClientError,
    DeadlineError,
    InvalidInputError,
    InvalidRequestError,
    ModelDiedError,
    ModelNotFoundError,
    OverloadedError,
    UnavailableError,
)

# How the errors of a generation begin: ``invalid_request (max_tokens): is -1; it must be at least 1``.
_ENGINE_ERROR = re.compile(
    r"(invalid_request|context_length_exceeded|unsupported|overloaded|engine_failed|cancelled)(?: \(([^)]*)\))?: (.*)",
    re.DOTALL,
)
_OF_THE_REQUEST = ("invalid_request", "context_length_exceeded", "unsupported")
_RETRY = {"retry-after": "1"}
_INVALID, _SERVER = "invalid_request_error", "server_error"


class GatewayError(click.ClickException):
    """The gateway cannot start, or a command on its keys failed; one sentence for the command line."""


class ApiError(Exception):
    """An error response.

    Attributes:
        param: the request's field that is wrong, e.g. ``messages[0].content``.
        code: a stable word for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = _INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.headers = param, code, headers or {}

    def body(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    def json(self) -> bytes:
        return json.dumps(self.body(), ensure_ascii=False).encode(errors="replace")


def invalid(param: str | None, problem: str, code: str = "invalid_value") -> ApiError:
    """The request is invalid: status 400."""
    return ApiError(400, f"{param}: {problem}" if param else problem, param=param, code=code)


def model_not_found(model: str, known: tuple[str, ...]) -> ApiError:
    listed = ", ".join(known) or "none"
    return ApiError(
        404, f"The model {model[:100]!r} does not exist; available: {listed}", param="model", code="model_not_found"
    )


def from_client_error(error: ClientError, renamed: dict[str, str] | None = None) -> ApiError:
    """The error response for a failed call of Triton.

    Args:
        renamed: the engine's parameter names -> the names in the caller's request.
    """
    if found := _ENGINE_ERROR.search(error.problem):
        return _from_engine(found[1], found[2], found[3], renamed or {})
    if isinstance(error, DeadlineError):
        return ApiError(504, f"The request took too long: {error.problem}", kind="timeout_error", code="timeout",
                        headers=_RETRY)  # fmt: skip
    if isinstance(error, ModelNotFoundError):
        return model_not_found(error.model, ())
    if isinstance(error, OverloadedError):
        return _overloaded(error.problem)
    if isinstance(error, (UnavailableError, ModelDiedError)):
        return ApiError(503, error.problem, kind=_SERVER, code="unavailable", headers=_RETRY)
    if isinstance(error, InvalidInputError):
        return invalid(error.tensor, error.reason)
    if isinstance(error, InvalidRequestError):
        return invalid(None, error.problem)
    return ApiError(500, error.problem, kind=_SERVER, code="engine_failed")


def _from_engine(word: str, param: str | None, problem: str, renamed: dict[str, str]) -> ApiError:
    if word == "overloaded":
        return _overloaded(problem)
    if word not in _OF_THE_REQUEST:
        return ApiError(500, f"The engine failed: {problem}", kind=_SERVER, code=word)
    # structured_outputs.json belongs to structured_outputs.
    name = None if param is None else renamed.get(param, renamed.get(param.partition(".")[0], param))
    code = {"invalid_request": "invalid_value", "unsupported": "unsupported_parameter"}.get(word, word)
    return invalid(name, problem, code)


def _overloaded(problem: str) -> ApiError:
    return ApiError(503, f"Too many requests are waiting: {problem}", kind=_SERVER, code="overloaded", headers=_RETRY)
