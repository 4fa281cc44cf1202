"""Errors of the backends; Triton sends their messages to the caller.

BackendError
├── ModelError                 the model cannot be loaded: its configuration or a file of its version is invalid
└── RequestError               one request failed; the others in its batch are not affected
    └── InvalidOutputError     the request is valid, but the model's output is not
"""

from __future__ import annotations


class BackendError(Exception):
    """Base class; the message says what is wrong, where, and what to do."""

    def message_for(self, request_id: str) -> str:
        """The message, prefixed with the request id if there is one."""
        return f"request '{request_id}': {self}" if request_id else str(self)


class ModelError(BackendError):
    """A model's configuration or one of its files is invalid, so it is not loaded."""


class RequestError(BackendError):
    """One request failed; the others in its batch are not affected."""


class InvalidOutputError(RequestError):
    """The model's output for a valid request cannot be returned to the caller."""
