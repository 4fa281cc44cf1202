"""The events of a stream of OpenAI's protocol as pieces of an answer."""

from __future__ import annotations

from typing import Any

from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import Piece
from trireme_backends.generation.errors import EngineError
from trireme_backends.generation.openai_dialects import Dialect
from trireme_backends.generation.openai_errors import error_of_event
from trireme_backends.generation.text_stream import StopStringFilter


class Answer:
    """One answer as it comes in.

    The piece that ends it is kept until the stream ends, as engines tell their usage after it.
    """

    def __init__(self, request: GenerationRequest, dialect: Dialect) -> None:
        self._dialect = dialect
        self._chat = request.messages is not None
        self._max_tokens = request.sampling.max_tokens
        self._stops = StopStringFilter(request.sampling.stop if dialect.keeps_stop_strings else ())
        self._num_input_tokens = 0
        self._told_tokens = 0
        self._finish_reason: str | None = None
        self._last_text = ""
        self._last_tokens = 0

    def read(self, document: dict[str, Any]) -> Piece | None:
        """What an event adds; None where that is nothing, or ends the answer.

        Raises:
            GenerationError: the event tells an error.
        """
        if error := error_of_event(document, self._dialect, self._max_tokens):
            raise error
        choice: dict[str, Any] = next(iter(document.get("choices") or ()), {})
        text = self._stops.push(self._text(choice))
        tokens = self._new_tokens(document.get("usage"), has_choice=bool(choice))
        reason = choice.get("finish_reason")
        if reason:
            self._finish_reason = self._dialect.finish_reasons.get(reason, reason)
        if self._finish_reason:
            self._last_text += text
            self._last_tokens += tokens
            return None
        return Piece(text, self._num_input_tokens, tokens) if text or tokens else None

    def last(self) -> Piece:
        """The piece that ends the answer, once the stream has ended.

        Raises:
            EngineError: the stream broke off, or ended for a reason of the engine's own.
        """
        if self._finish_reason not in ("stop", "length"):
            ended = f"ended with '{self._finish_reason}'" if self._finish_reason else "broke off"
            raise EngineError(f"the answer of the {self._dialect.name} engine {ended}")
        text = self._last_text + self._stops.rest()
        reason = "stop" if self._stops.stopped else self._finish_reason
        return Piece(text, self._num_input_tokens, self._last_tokens, reason)

    def _text(self, choice: dict[str, Any]) -> str:
        told = (choice.get("delta") or {}).get("content") if self._chat else choice.get("text")
        return told or ""

    def _new_tokens(self, usage: dict[str, int] | None, *, has_choice: bool) -> int:
        if usage:
            self._num_input_tokens = usage.get("prompt_tokens", 0)
            new = max(usage.get("completion_tokens", 0) - self._told_tokens, 0)
        else:
            new = int(has_choice and self._dialect.one_token_a_piece)
        self._told_tokens += new
        return new
