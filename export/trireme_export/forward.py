"""Runs texts through graphs: tokenises, pads and groups them by length."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime  # type: ignore[import-untyped,unused-ignore]
from tokenizers import Tokenizer

from trireme_export.graph import ATTENTION_MASK, INPUT_IDS

Ids = npt.NDArray[np.int64]
Rows = npt.NDArray[np.float32]

# Maps token ids and attention mask, INT64 [batch, sequence], to one vector per text, FP32 [batch, width].
Forward = Callable[[Ids, Ids], Rows]

_BATCH_ROWS = 16


def load_tokenizer(path: Path, max_tokens: int) -> Tokenizer:
    """A tokenizer without padding that truncates to ``max_tokens``, regardless of the settings in its file."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens)
    return tokenizer


def tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> tuple[Ids, Ids]:
    """Ids and mask of a batch, INT64 [batch, longest]; shorter rows are padded on the right with 0."""
    return _pad([tokenizer.encode(text).ids for text in texts])


def _pad(rows: Sequence[Sequence[int]]) -> tuple[Ids, Ids]:
    ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return ids, mask


def onnx_forward(model: onnx.ModelProto | Path) -> Forward:
    """A graph with this repository's inputs and output, as a function."""
    session = _session(model)

    def forward(ids: Ids, mask: Ids) -> Rows:
        (rows,) = session.run(None, {INPUT_IDS: ids, ATTENTION_MASK: mask})
        return np.asarray(rows, np.float32)

    return forward


def source_forward(path: Path) -> Forward:
    """The unmodified source graph, pooled and normalised outside of it: the reference for the exported graph."""
    session = _session(path)
    floats = [output for output in session.get_outputs() if output.type == "tensor(float)"]
    hidden_states = next(output.name for output in floats if len(output.shape) == 3)
    dtypes = {value.name: np.int32 if value.type == "tensor(int32)" else np.int64 for value in session.get_inputs()}

    def forward(ids: Ids, mask: Ids) -> Rows:
        given = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = session.run([hidden_states], {name: given[name].astype(dtype) for name, dtype in dtypes.items()})
        return pool_and_normalise(np.asarray(hidden, np.float32), mask)

    return forward


def pool_and_normalise(hidden: npt.NDArray[np.float32], mask: Ids) -> Rows:
    """Mean over unmasked tokens, then L2 norm 1: FP32 [batch, sequence, width] to [batch, width]."""
    weight = mask[:, :, None].astype(np.float32)
    mean = (hidden * weight).sum(axis=1) / np.maximum(weight.sum(axis=1), 1e-9)
    return np.asarray(mean / np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9), np.float32)


def run_texts(forward: Forward, tokenizer: Tokenizer, texts: Sequence[str]) -> Rows:
    """Run all texts in batches of similar length on all cores; returns rows in the order of ``texts``."""
    tokens = [tokenizer.encode(text).ids for text in texts]
    order = sorted(range(len(texts)), key=lambda index: len(tokens[index]))
    batches = [order[start : start + _BATCH_ROWS] for start in range(0, len(order), _BATCH_ROWS)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        results = list(pool.map(lambda batch: forward(*_pad([tokens[index] for index in batch])), batches))
    rows = np.concatenate(results)
    return rows[np.argsort(np.concatenate(batches))]


def _session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # batches run in parallel instead
    options.log_severity_level = 3
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
