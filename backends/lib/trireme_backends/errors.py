"""Errors that backends raise deliberately. Triton returns the message to the caller.

BackendError
├── ModelError      the model cannot be loaded: its configuration or a file of its version is invalid
│   └── FileError       a file is invalid at a known key
└── RequestError    one request failed; the others in its batch are not affected
    └── InvalidOutputError     the request is valid, but the model's output for it is not
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar


class BackendError(Exception):
    """A one-sentence message: what is wrong, where, what to do. ``code`` is the name of Triton's error code."""

    code: ClassVar[str] = "INTERNAL"

    def about(self, request_id: str) -> str:
        """The message, prefixed with the request's id if the caller set one."""
        return f"request '{request_id}': {self}" if request_id else str(self)


class ModelError(BackendError):
    """A model's configuration or one of its files is invalid, so it is not loaded."""


class FileError(ModelError):
    """A file is invalid at ``key``; an empty key means the whole file."""

    def __init__(self, path: Path, key: str, problem: str) -> None:
        self.path, self.key, self.problem = path, key, problem
        super().__init__(f"{path}: {self.detail}")

    @property
    def detail(self) -> str:
        """The message without the path."""
        return f"{self.key}: {self.problem}" if self.key else self.problem


class RequestError(BackendError):
    """One request failed; the others in its batch are not affected."""

    code = "INVALID_ARG"


class InvalidOutputError(RequestError):
    """The model's output for a valid request is invalid."""

    code = "INTERNAL"


def error_response(pb_utils: Any, error: BackendError, request_id: str = "") -> Any:
    """Triton's response for an error; ``pb_utils`` is ``triton_python_backend_utils``."""
    code = getattr(pb_utils.TritonError, error.code)
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(error.about(request_id), code))
