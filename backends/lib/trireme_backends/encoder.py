"""Encodes texts: a queue of tokenised texts, and threads that encode texts of similar length together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import BackendError, InvalidOutputError, RequestError
from trireme_backends.length_batching import choose_batch
from trireme_backends.text import TokenIds, pad

Vectors = npt.NDArray[Any]
Encode = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Vectors]
"""Maps ids and attention mask, both INT64 [texts, tokens], to vectors [texts, ...]. Raises BackendError."""

Done = Callable[[Vectors | BackendError], None]
"""Receives the rows of one request, in order, or the error."""

# Further texts wait in Triton's own queue, where its policies and metrics apply.
_MAX_WAITING = 32


class _Job:
    """One request with texts that are not encoded yet."""

    def __init__(self, texts: int, done: Done) -> None:
        self._done = done
        self._rows: list[Vectors] = [np.empty(0)] * texts
        self._missing = texts
        self._error: BackendError | None = None
        self._lock = threading.Lock()

    def put(self, row: int, result: Vectors | BackendError) -> None:
        with self._lock:
            self._missing -= 1
            finished = self._missing == 0
            if isinstance(result, BackendError):
                self._error = self._error or result
            else:
                self._rows[row] = result
        if finished:
            self._done(self._error or _stacked(self._rows))


@dataclass(frozen=True, slots=True)
class _Text:
    ids: TokenIds
    job: _Job
    row: int


class Encoder:
    """Encodes texts in its own threads, batching across requests.

    Example:
        >>> encoder = Encoder(encode, threads=2)
        >>> encoder.submit(ids_of_each_text, done=print)
        >>> encoder.close()
    """

    def __init__(self, encode: Encode, threads: int) -> None:
        self._encode = encode
        self._waiting: list[_Text] = []
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, name=f"encoder-{index}") for index in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, texts: Sequence[TokenIds], done: Done) -> None:
        """Queue the texts of one request, at least one. Blocks while the queue is full."""
        job = _Job(len(texts), done)
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MAX_WAITING)
            self._waiting += [_Text(ids, job, row) for row, ids in enumerate(texts)]
            self._changed.notify_all()

    def close(self) -> None:
        """Encode the queued texts, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._take():
            for text, result in zip(batch, self._encode_batch(batch), strict=True):
                text.job.put(text.row, result)

    def _take(self) -> list[_Text]:
        """The next batch; empty when the encoder is closed and the queue is empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if not self._waiting:
                return []
            chosen = choose_batch([len(text.ids) for text in self._waiting])
            batch = [self._waiting[index] for index in chosen]
            for index in sorted(chosen, reverse=True):
                del self._waiting[index]
            self._changed.notify_all()
            return batch

    def _encode_batch(self, batch: Sequence[_Text]) -> Sequence[Vectors | BackendError]:
        try:
            vectors = self._encode(*pad([text.ids for text in batch]))
        except BackendError as error:
            # Retry each text alone, so that only the faulty one fails.
            return [error] if len(batch) == 1 else [self._encode_batch([text])[0] for text in batch]
        if len(vectors) != len(batch):
            return [RequestError(f"the model returned {len(vectors)} rows for {len(batch)} texts")] * len(batch)
        finite = np.isfinite(vectors.reshape(len(batch), -1)).all(axis=1)
        return [
            vector if valid else InvalidOutputError(f"row {text.row} of the output contains a non-finite value")
            for text, vector, valid in zip(batch, vectors, finite, strict=True)
        ]


def _stacked(rows: Sequence[Vectors]) -> Vectors | BackendError:
    shapes = sorted({row.shape for row in rows})
    if len(shapes) == 1:
        return np.stack(rows)
    listed = " and ".join(str(list(shape)) for shape in shapes)
    return InvalidOutputError(f"the outputs of the texts have different shapes, {listed}; send one text per request")
