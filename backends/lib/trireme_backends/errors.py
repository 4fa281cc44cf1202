"""What the backends raise on purpose. Triton returns the sentence to the caller.

BackendError
├── ModelError      the model cannot be loaded: its configuration or a file of its version is wrong
│   └── FileError       a file is wrong at a known key
└── RequestError    one request cannot be answered; its neighbours in the batch are
    └── AnswerError     the request is right, but the model's output for it is not a valid answer
"""

from __future__ import annotations

from pathlib import Path


class BackendError(Exception):
    """One clear sentence: what is wrong, where, what to do."""

    def about(self, request_id: str) -> str:
        """The sentence, with the request it is about where the caller gave it a name."""
        return f"request '{request_id}': {self}" if request_id else str(self)


class ModelError(BackendError):
    """A model's configuration or one of its files is wrong, so it is not loaded."""


class FileError(ModelError):
    """A file is wrong at ``key``, which is empty where it is the whole file."""

    def __init__(self, path: Path, key: str, problem: str) -> None:
        self.path, self.key, self.problem = path, key, problem
        super().__init__(f"{path}: {self.detail}")

    @property
    def detail(self) -> str:
        """The sentence without the path."""
        return f"{self.key}: {self.problem}" if self.key else self.problem


class RequestError(BackendError):
    """A request is wrong by itself; those it was batched with are answered."""


class AnswerError(RequestError):
    """The model answered a right request with something that cannot be given to the caller."""
