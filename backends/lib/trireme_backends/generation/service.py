"""Brings requests and an engine together: pieces become responses, callers that go away are noticed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from trireme_backends.generation.contract import GenerationRequest, Tensor, read_request, response_tensors
from trireme_backends.generation.engine import Engine, Generation, Piece
from trireme_backends.generation.errors import EngineError, GenerationError
from trireme_backends.generation.metrics import Observer

# Each look is a message to the server, for each open request.
_CANCEL_POLL_SECONDS = 0.25


class Reply(Protocol):
    """The way back to one caller."""

    def send(self, tensors: list[tuple[str, Tensor]], *, final: bool) -> None: ...

    def fail(self, error: GenerationError) -> None:
        """Send the error as the last response."""

    def is_cancelled(self) -> bool: ...


class GenerationService:
    """Serves requests with one engine.

    Example:
        >>> service = GenerationService(engine, observer)
        >>> service.accept("request-1", tensors.get, reply)
    """

    def __init__(self, engine: Engine, observer: Observer) -> None:
        self._engine, self._observer = engine, observer
        self._open: set[_Answer] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._watch_callers, daemon=True, name="generation-callers")
        self._watch.start()

    def accept(self, request_id: str, tensor: Callable[[str], Tensor | None], reply: Reply) -> None:
        """Take one request; everything else, errors too, goes to ``reply``."""
        try:
            request = read_request(request_id, tensor)
            answer = _Answer(request, reply, self._observer, self._forget)
            self._observer.accepted(request)
            with self._lock:
                self._open.add(answer)
            try:
                answer.generation = self._engine.submit(request, answer.take)
            except GenerationError as error:
                answer.take(error)
            except Exception as error:  # of one request; the model goes on serving the others
                answer.take(EngineError(f"{type(error).__name__}: {error}"))
        except GenerationError as error:
            self._observer.refused(error)
            reply.fail(error)

    def close(self) -> None:
        """End the engine, which ends what is open."""
        self._engine.close()
        self._closed.set()
        self._watch.join(timeout=2.0)

    def _forget(self, answer: _Answer) -> None:
        with self._lock:
            self._open.discard(answer)

    def _watch_callers(self) -> None:
        while not self._closed.wait(_CANCEL_POLL_SECONDS):
            with self._lock:
                answers = list(self._open)
            for answer in answers:
                answer.cancel_if_unwanted()
            self._observer.state(self._engine.state())


@dataclass(eq=False, slots=True)
class _Answer:
    """One answer on its way: sends pieces on, or gathers them where the request does not stream."""

    request: GenerationRequest
    reply: Reply
    observer: Observer
    done: Callable[[_Answer], None]
    generation: Generation | None = None
    _gathered: list[Piece] = field(default_factory=list)
    _cancelled: bool = False
    _ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, piece: Piece | GenerationError) -> None:
        """The engine's sink."""
        if isinstance(piece, GenerationError):
            self.done(self)
            self.observer.failed(self.request, piece)
            with self._lock:
                self._ended = True
                self.reply.fail(piece)
            return
        final = piece.finish_reason is not None
        if final:
            self.done(self)
        self.observer.generated(self.request, piece)
        if not self.request.stream:
            self._gathered.append(piece)
            if not final:
                return
            piece = _joined(self._gathered)
        elif not final and not piece.text and not piece.logprobs:
            # Half a character, or what may become a stop text: its tokens are told with the next piece.
            self._gathered.append(piece)
            return
        elif self._gathered:
            piece = _joined([*self._gathered, piece])
            self._gathered.clear()
        with self._lock:
            self._ended = final
            self.reply.send(response_tensors(self.request, piece), final=final)

    def cancel_if_unwanted(self) -> None:
        # Behind the last response the server has forgotten the request: asked of it then, it crashes.
        with self._lock:
            if self._ended or self._cancelled or self.generation is None:
                return
            self._cancelled = self.reply.is_cancelled()
        if self._cancelled:
            self.generation.cancel()


def _joined(pieces: list[Piece]) -> Piece:
    return replace(
        pieces[-1],
        text="".join(piece.text for piece in pieces),
        num_output_tokens=sum(piece.num_output_tokens for piece in pieces),
        logprobs=tuple(token for piece in pieces for token in piece.logprobs),
    )
