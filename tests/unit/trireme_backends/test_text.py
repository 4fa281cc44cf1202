"""Decoding, tokenising and padding texts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from trireme_backends.errors import ModelError, RequestError
from trireme_backends.text import MAX_TEXT_BYTES, TextTokenizer, decode_texts, pad


def tensor(*texts: bytes) -> npt.NDArray[np.object_]:
    return np.array([[text] for text in texts], dtype=np.object_)


@pytest.fixture
def tokenizer_path(tmp_path: Path) -> Path:
    words = {"[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "good": 4, "bad": 5}
    tokenizer = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.enable_padding(length=128)
    tokenizer.enable_truncation(128)
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def test_texts_are_decoded_unchanged() -> None:
    assert decode_texts(tensor("Grüße 🚀".encode(), b"", b"a\0b")) == ["Grüße 🚀", "", "a\0b"]


def test_a_row_that_is_not_utf8_is_named_with_its_byte() -> None:
    with pytest.raises(RequestError, match="row 1 of TEXT is not UTF-8: byte 0xff at position 2"):
        decode_texts(tensor(b"fine", b"ab\xff"))


def test_a_text_over_the_size_limit_is_rejected() -> None:
    with pytest.raises(RequestError, match=f"row 0 of TEXT has {MAX_TEXT_BYTES + 1} bytes"):
        decode_texts(tensor(b"x" * (MAX_TEXT_BYTES + 1)))


def test_padding_and_truncation_of_the_file_are_overridden(tokenizer_path: Path) -> None:
    tokenizer = TextTokenizer(tokenizer_path, max_tokens=5)
    assert tokenizer.encode(["good", "", "bad bad bad bad"]) == [[1, 4, 2], [1, 2], [1, 5, 5, 5, 2]]


def test_an_invalid_tokenizer_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer"):
        TextTokenizer(path, max_tokens=8)


def test_texts_are_padded_to_the_longest_and_padding_is_masked() -> None:
    ids, mask = pad([[1, 2], [1, 4, 2]])
    assert ids.tolist() == [[1, 2, 0], [1, 4, 2]]
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert (ids.dtype, mask.dtype) == (np.int64, np.int64)


def test_lengths_are_rounded_up_to_a_multiple() -> None:
    assert pad([[1] * 9], multiple=8)[0].shape == (1, 16)
    assert pad([[1] * 8], multiple=8)[0].shape == (1, 8)
