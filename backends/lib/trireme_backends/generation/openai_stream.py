"""Parses the events of an OpenAI completion stream into chunks."""

from __future__ import annotations

from typing import Any

from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import Chunk
from trireme_backends.generation.errors import EngineError
from trireme_backends.generation.openai_dialects import Dialect
from trireme_backends.generation.openai_errors import error_of_event
from trireme_backends.generation.stop_strings import StopStringFilter


class CompletionStream:
    """The state of one stream.

    The last chunk is held back until the stream ends, because engines send the usage after it.
    """

    def __init__(self, request: GenerationRequest, dialect: Dialect) -> None:
        self._dialect = dialect
        self._chat = request.messages is not None
        self._max_tokens = request.sampling.max_tokens
        self._cut = StopStringFilter(request.sampling.stop if dialect.keeps_stop_strings else ())
        self._num_input_tokens = 0
        self._output_tokens = 0
        self._finish_reason: str | None = None
        self._last_text = ""
        self._last_tokens = 0

    def read(self, document: dict[str, Any]) -> Chunk | None:
        """The chunk of an event; None if the event adds no output, or belongs to the last chunk.

        Raises:
            GenerationError: the event is an error.
        """
        if error := error_of_event(document, self._dialect, self._max_tokens):
            raise error
        choice: dict[str, Any] = next(iter(document.get("choices") or ()), {})
        text = self._cut.feed(self._text(choice))
        tokens = self._new_tokens(document.get("usage"), has_choice=bool(choice))
        reason = choice.get("finish_reason")
        if reason:
            self._finish_reason = self._dialect.finish_reasons.get(reason, reason)
        if self._finish_reason:
            self._last_text += text
            self._last_tokens += tokens
            return None
        return Chunk(text, self._num_input_tokens, tokens) if text or tokens else None

    def last(self) -> Chunk:
        """The last chunk, once the stream has ended.

        Raises:
            EngineError: the stream was cut off, or ended with an unknown finish reason.
        """
        if self._finish_reason not in ("stop", "length"):
            ended = f"ended with '{self._finish_reason}'" if self._finish_reason else "was cut off"
            raise EngineError(f"the stream of the {self._dialect.name} engine {ended}")
        text = self._last_text + self._cut.rest()
        reason = "stop" if self._cut.stopped else self._finish_reason
        return Chunk(text, self._num_input_tokens, self._last_tokens, reason)

    def _text(self, choice: dict[str, Any]) -> str:
        text = (choice.get("delta") or {}).get("content") if self._chat else choice.get("text")
        return text or ""

    def _new_tokens(self, usage: dict[str, int] | None, *, has_choice: bool) -> int:
        if usage:
            self._num_input_tokens = usage.get("prompt_tokens", 0)
            new = max(usage.get("completion_tokens", 0) - self._output_tokens, 0)
        else:
            new = int(has_choice and self._dialect.one_token_per_chunk)
        self._output_tokens += new
        return new
