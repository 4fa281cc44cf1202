"""The engine interface: an engine accepts requests at any time and streams the chunks of each to a sink."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trireme_backends.generation.errors import GenerationError

if TYPE_CHECKING:
    from trireme_backends.generation.contract import GenerationRequest


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its log probability; ``rank`` 1 is the most probable, None if the engine does not report it."""

    token_id: int
    text: str
    logprob: float
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Chunk:
    """The next part of a generated text.

    Attributes:
        text: complete characters only. May be empty.
        num_input_tokens: tokens of the prompt.
        num_output_tokens: tokens of this chunk.
        finish_reason: on the last chunk ``stop`` (the model or a stop string ended the text) or ``length``; else None.
        logprobs: for each token, the token itself and then its most probable alternatives; empty if not requested.
        cumulative_logprob: of all tokens so far; 0 if log probabilities were not requested.
    """

    text: str
    num_input_tokens: int
    num_output_tokens: int
    finish_reason: str | None = None
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    cumulative_logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineState:
    """The load of an engine.

    Attributes:
        running: requests in the batch.
        waiting: queued requests.
        kv_cache_usage: from 0 to 1; None if the engine does not report it.
        steps: number of forward passes since the model was loaded; None if the engine does not report it.
    """

    running: int
    waiting: int
    kv_cache_usage: float | None = None
    steps: int | None = None


# Receives the chunks of one request in order; the last has a finish reason, or is an error. Called from any thread.
Sink = Callable[["Chunk | GenerationError"], None]


class Generation(Protocol):
    """One request in progress."""

    def cancel(self) -> None:
        """End the request; unless it has ended, its sink receives a ``CancelledError``. Thread-safe."""


class Engine(Protocol):
    """An engine with its model loaded. The constructor loads the model, and raises ``ModelError`` if that fails."""

    def submit(self, request: GenerationRequest, sink: Sink) -> Generation:
        """Start a request; ``sink`` receives its chunks.

        Raises:
            GenerationError: the request is rejected; ``sink`` is not called.
        """

    def state(self) -> EngineState:
        """The current load. Thread-safe."""

    def close(self) -> None:
        """End all requests with an error to their sinks, and free the model."""
