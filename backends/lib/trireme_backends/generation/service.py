"""Serves requests with an engine: turns chunks into responses, and cancels the requests of disconnected callers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from trireme_backends.generation.contract import GenerationRequest, Tensor, read_request, response_tensors
from trireme_backends.generation.engine import Chunk, Engine, Generation
from trireme_backends.generation.errors import EngineError, GenerationError
from trireme_backends.generation.metrics import Observer

# Each poll is one message to the server per open request.
_CANCEL_POLL_SECONDS = 0.25


class Reply(Protocol):
    """Sends responses to one caller."""

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
        self._open: set[_Response] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._watch = threading.Thread(target=self._watch_callers, daemon=True, name="generation-callers")
        self._watch.start()

    def accept(self, request_id: str, tensor: Callable[[str], Tensor | None], reply: Reply) -> None:
        """Start one request; responses and errors go to ``reply``."""
        try:
            request = read_request(request_id, tensor)
            response = _Response(request, reply, self._observer, self._forget)
            self._observer.accepted(request)
            with self._lock:
                self._open.add(response)
            try:
                response.generation = self._engine.submit(request, response.add)
            except GenerationError as error:
                response.add(error)
            except Exception as error:  # fails this request only
                response.add(EngineError(f"{type(error).__name__}: {error}"))
        except GenerationError as error:
            self._observer.rejected(error)
            reply.fail(error)

    def close(self) -> None:
        """Close the engine, which ends all open requests."""
        self._engine.close()
        self._closed.set()
        self._watch.join(timeout=2.0)

    def _forget(self, response: _Response) -> None:
        with self._lock:
            self._open.discard(response)

    def _watch_callers(self) -> None:
        while not self._closed.wait(_CANCEL_POLL_SECONDS):
            with self._lock:
                responses = list(self._open)
            for response in responses:
                response.cancel_if_disconnected()
            self._observer.state(self._engine.state())


@dataclass(eq=False, slots=True)
class _Response:
    """One response in progress: sends its chunks, or buffers them if the request does not stream."""

    request: GenerationRequest
    reply: Reply
    observer: Observer
    done: Callable[[_Response], None]
    generation: Generation | None = None
    _buffered: list[Chunk] = field(default_factory=list)
    _cancelled: bool = False
    _ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, chunk: Chunk | GenerationError) -> None:
        """The engine's sink."""
        if isinstance(chunk, GenerationError):
            self.done(self)
            self.observer.failed(self.request, chunk)
            with self._lock:
                self._ended = True
                self.reply.fail(chunk)
            return
        final = chunk.finish_reason is not None
        if final:
            self.done(self)
        self.observer.generated(self.request, chunk)
        if not self.request.stream:
            self._buffered.append(chunk)
            if not final:
                return
            chunk = _joined(self._buffered)
        elif not final and not chunk.text and not chunk.logprobs:
            # An incomplete character or a possible stop string: its tokens are counted in the next chunk.
            self._buffered.append(chunk)
            return
        elif self._buffered:
            chunk = _joined([*self._buffered, chunk])
            self._buffered.clear()
        with self._lock:
            self._ended = final
            self.reply.send(response_tensors(self.request, chunk), final=final)

    def cancel_if_disconnected(self) -> None:
        # After the last response the server has freed the request; is_cancelled would crash it.
        with self._lock:
            if self._ended or self._cancelled or self.generation is None:
                return
            self._cancelled = self.reply.is_cancelled()
        if self._cancelled:
            self.generation.cancel()


def _joined(chunks: list[Chunk]) -> Chunk:
    return replace(
        chunks[-1],
        text="".join(chunk.text for chunk in chunks),
        num_output_tokens=sum(chunk.num_output_tokens for chunk in chunks),
        logprobs=tuple(token for chunk in chunks for token in chunk.logprobs),
    )
