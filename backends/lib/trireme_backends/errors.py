"""What the backends raise on purpose. Triton shows the sentence to whoever asked.

BackendError
├── ModelError      the model cannot be loaded: its configuration or a file of its version is wrong
└── RequestError    one request cannot be answered; its neighbours in the batch are
    └── AnswerError     the request is right, and what the model made of it is no answer
"""

from __future__ import annotations


class BackendError(Exception):
    """One clear sentence: what is wrong, where, what to do."""

    def about(self, request_id: str) -> str:
        """The sentence, with the request it is about where the caller gave it a name."""
        return f"request '{request_id}': {self}" if request_id else str(self)


class ModelError(BackendError):
    """A model's configuration or one of its files is wrong, so it is not loaded."""


class RequestError(BackendError):
    """A request is wrong by itself; those it was batched with are answered."""


class AnswerError(RequestError):
    """The model answered a right request with something that cannot be given to the caller."""
