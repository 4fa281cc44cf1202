"""Texts to vectors: a queue of tokenised texts, and threads that encode those of like length together."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.errors import AnswerError, BackendError, RequestError
from trireme_backends.length_batching import choose_batch
from trireme_backends.text import TokenIds, pad

Vectors = npt.NDArray[Any]
Encode = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], Vectors]
"""Ids and attention mask, both INT64 [texts, tokens], to [texts, ...]. Raises BackendError."""

Done = Callable[[Vectors | BackendError], None]
"""Gets the rows of one request, in order, or why there are none."""

# Beyond this many, texts wait in Triton's own queue, where its policies and its metrics see them.
_MOST_WAITING = 32


class _Job:
    """The texts of one request, until the last of them is encoded."""

    def __init__(self, texts: int, done: Done) -> None:
        self._done = done
        self._rows: list[Vectors] = [np.empty(0)] * texts
        self._missing = texts
        self._error: BackendError | None = None
        self._lock = threading.Lock()

    def put(self, row: int, answer: Vectors | BackendError) -> None:
        with self._lock:
            self._missing -= 1
            finished = self._missing == 0
            if isinstance(answer, BackendError):
                self._error = self._error or answer
            else:
                self._rows[row] = answer
        if finished:
            self._done(self._error or _stacked(self._rows))


@dataclass(frozen=True, slots=True)
class _Text:
    ids: TokenIds
    job: _Job
    row: int


class Encoder:
    """Encodes texts in threads of its own, whichever request they came with.

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
        """Queue the texts, at least one, of one request. Blocks while many wait already."""
        job = _Job(len(texts), done)
        with self._changed:
            self._changed.wait_for(lambda: len(self._waiting) < _MOST_WAITING)
            self._waiting += [_Text(ids, job, row) for row, ids in enumerate(texts)]
            self._changed.notify_all()

    def close(self) -> None:
        """Encode what waits, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while batch := self._take():
            for text, answer in zip(batch, self._answers(batch), strict=True):
                text.job.put(text.row, answer)

    def _take(self) -> list[_Text]:
        """The next batch; empty when the encoder is closed and nothing waits."""
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

    def _answers(self, batch: Sequence[_Text]) -> Sequence[Vectors | BackendError]:
        try:
            vectors = self._encode(*pad([text.ids for text in batch]))
        except BackendError as error:
            # Only the culprit is to fail: each is tried alone.
            return [error] if len(batch) == 1 else [self._answers([text])[0] for text in batch]
        if len(vectors) != len(batch):
            return [RequestError(f"the model gave {len(vectors)} rows for {len(batch)} texts")] * len(batch)
        finite = np.isfinite(vectors.reshape(len(batch), -1)).all(axis=1)
        return [
            vector if well else AnswerError(f"row {text.row} of the answer holds a value that is not a finite number")
            for text, vector, well in zip(batch, vectors, finite, strict=True)
        ]


def _stacked(rows: Sequence[Vectors]) -> Vectors | BackendError:
    shapes = sorted({row.shape for row in rows})
    if len(shapes) == 1:
        return np.stack(rows)
    listed = " and ".join(str(list(shape)) for shape in shapes)
    return AnswerError(f"the texts came out in the shapes {listed}, which make no tensor; send them one a request")
