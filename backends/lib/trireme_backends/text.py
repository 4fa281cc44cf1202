"""Text in and out of Triton: BYTES tensors to str, str to token ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from trireme_backends.errors import ModelError, RequestError


def decode_texts(tensor: npt.NDArray[np.object_]) -> list[str]:
    """The texts of a ``TEXT`` tensor: object array of ``bytes``, shape [rows, 1].

    Raises:
        RequestError: a row is not UTF-8; the sentence names the row and the byte.
    """
    texts = []
    for row, value in enumerate(tensor.reshape(-1)):
        try:
            texts.append(value.decode())
        except UnicodeDecodeError as error:
            raise RequestError(
                f"row {row} of TEXT is not UTF-8: byte 0x{value[error.start]:02x} at position {error.start}"
            ) from None
    return texts


class TextTokenizer:
    """Texts to token ids, special tokens included, cut to ``max_tokens``."""

    def __init__(self, path: Path, max_tokens: int) -> None:
        """Load ``tokenizer.json``.

        Raises:
            ModelError: the file is not a tokenizer.
        """
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises plain Exception
            raise ModelError(f"{path} is not a tokenizer: {error}") from None
        # The file may ask for padding to a fixed length; how to pad is the caller's choice.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)

    def encode(self, texts: list[str]) -> list[npt.NDArray[np.int64]]:
        """The ids of each text, shape [tokens]."""
        return [np.array(encoding.ids, dtype=np.int64) for encoding in self._tokenizer.encode_batch_fast(texts)]


def pad(rows: list[npt.NDArray[np.int64]], length: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Ids and attention mask, INT64 [rows, length], padded with zeros on the right."""
    ids = np.zeros((len(rows), length), dtype=np.int64)
    mask = np.zeros((len(rows), length), dtype=np.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return ids, mask
