"""What an engine is: it takes requests at any time, and tells the pieces of each answer as they come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from trireme_backends.generation.errors import GenerationError

if TYPE_CHECKING:
    from trireme_backends.generation.contract import GenerationRequest


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and the logarithm of its probability; ``rank`` 1 is the likeliest, None where the engine tells none."""

    token_id: int
    text: str
    logprob: float
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Piece:
    """What is new of an answer.

    Attributes:
        text: valid by itself: no half characters. May be empty.
        num_input_tokens: of the prompt. num_output_tokens: of this piece.
        finish_reason: on the last piece ``stop`` (the model or a stop text ended it) or ``length``; else None.
        logprobs: for each token it and the likeliest others, it first; empty where none are asked for.
        cumulative_logprob: of the tokens up to here; 0 where no log probabilities are asked for.
    """

    text: str
    num_input_tokens: int
    num_output_tokens: int
    finish_reason: str | None = None
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    cumulative_logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class EngineState:
    """What goes on in an engine.

    Attributes:
        running, waiting: requests with and without a place.
        kv_cache_usage: a share from 0 to 1; None where the engine does not tell.
        steps: how often it computed since it was loaded; None where it does not tell.
    """

    running: int
    waiting: int
    kv_cache_usage: float | None = None
    steps: int | None = None


# Told every piece, the last with a finish reason or an error; from any thread, one after the other for a request.
Sink = Callable[["Piece | GenerationError"], None]


class Generation(Protocol):
    """One request on its way."""

    def cancel(self) -> None:
        """Give its place free at once; its sink is told a ``CancelledError``, unless it has ended. From any thread."""


class Engine(Protocol):
    """An engine with its model loaded. Its constructor loads, and raises ``ModelError`` for what it cannot do."""

    def submit(self, request: GenerationRequest, sink: Sink) -> Generation:
        """Take a request; ``sink`` is told what becomes of it.

        Raises:
            GenerationError: it is refused; ``sink`` is told nothing.
        """

    def state(self) -> EngineState:
        """From any thread."""

    def close(self) -> None:
        """End what runs, tell its sinks, and free the model."""
