"""Prepares text for a model: BYTES tensors to str, str to token ids, ids to padded tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from trireme_backends.errors import ModelError, RequestError

TokenIds = list[int]

# Only the first tokens of a text are used, but the tokenizer reads all of it: a second for some megabytes.
MAX_TEXT_BYTES = 1 << 20


def decode_texts(tensor: npt.NDArray[np.object_]) -> list[str]:
    """The texts of a ``TEXT`` tensor: object array of ``bytes``, shape [rows, 1].

    Raises:
        RequestError: a row is not UTF-8, or longer than ``MAX_TEXT_BYTES``; the message names the row.
    """
    return [_decode(row, value) for row, value in enumerate(tensor.reshape(-1))]


def _decode(row: int, value: bytes) -> str:
    if len(value) > MAX_TEXT_BYTES:
        raise RequestError(f"row {row} of TEXT has {len(value)} bytes; the maximum is {MAX_TEXT_BYTES}")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise RequestError(
            f"row {row} of TEXT is not UTF-8: byte 0x{value[error.start]:02x} at position {error.start}"
        ) from None


class TextTokenizer:
    """Maps texts to token ids, with special tokens, truncated to ``max_tokens``."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        """Load ``tokenizer.json``.

        Raises:
            ModelError: the file is not a tokenizer.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path} is not a tokenizer: {error}") from None
        # The file may configure padding to a fixed length; the caller chooses how to pad.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def encode(self, texts: list[str]) -> list[TokenIds]:
        """The ids of each text."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(texts)]


def pad(texts: Sequence[TokenIds], *, multiple: int = 1) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Ids and attention mask, both INT64 [texts, tokens], padded on the right with zeros.

    ``tokens`` is the longest length, rounded up to a multiple of ``multiple``.
    """
    tokens = -(-max(map(len, texts)) // multiple) * multiple
    ids = np.zeros((len(texts), tokens), dtype=np.int64)
    mask = np.zeros((len(texts), tokens), dtype=np.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask
