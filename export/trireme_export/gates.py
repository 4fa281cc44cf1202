"""The gates of an exported graph: parity with its source, and accuracy on held-out rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from trireme.errors import GateError, TriremeError
from trireme.repository.manifest import Accuracy, Parity

from trireme_export.forward import Forward, Rows, run_texts, tokenize
from trireme_export.labelled_data import LabelledTexts
from trireme_export.recipe import AccuracyGate, LabelledData, ParityGate, Precision

# From the shortest possible input to the longest; the last one is truncated at the tokenizer's limit.
_PARITY_TEXTS = (
    "",
    "a",
    "Good case, excellent value.",
    "The café's naïve résumé: 値段が安い, отлично! 👍",
    "The plot is thin and the dialogue thinner, but the two leads carry every scene with such warmth that I forgot to "
    "look at my watch until the lights came on again.",
    "word " * 1000,
)
_PARITY_BATCHES = ((0,), (2,), (5,), (1, 4), (5, 0), (0, 1, 2, 3, 4), (3, 5, 1, 2, 0))
# Allows for a different order of fp32 sums only: padding that affects a text's vector is far above this.
_ALONE_VS_BATCH_LIMIT = 1e-4


@dataclass(frozen=True, slots=True)
class SoftmaxHead:
    """A linear classifier: weights FP32 [width, classes], bias FP32 [classes]."""

    weights: Rows
    bias: npt.NDArray[np.float32]

    def logits(self, embeddings: Rows) -> Rows:
        """FP32 [rows, classes]."""
        return np.asarray(embeddings @ self.weights + self.bias, np.float32)

    def probabilities(self, embeddings: Rows) -> Rows:
        """FP32 [rows, classes]; each row sums to 1."""
        logits = self.logits(embeddings)
        exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), np.float32)


def measure_parity(reference: Forward, exported: Forward, tokenizer: Tokenizer, subject: str) -> Parity:
    """Compare two functions on batches of different sizes with short, long and padded rows.

    Raises:
        TriremeError: one of them fails on a batch, as a graph traced for a single shape does.
    """
    expected, found = [], []
    for batch in _PARITY_BATCHES:
        ids, mask = tokenize(tokenizer, [_PARITY_TEXTS[index] for index in batch])
        expected.append(_run(reference, ids, mask, f"{subject}: its source"))
        found.append(_run(exported, ids, mask, subject))
        if found[-1].shape != expected[-1].shape:
            raise TriremeError(
                f"{subject}: parity gate failed: a batch of shape {list(ids.shape)} gives {list(found[-1].shape)}, "
                f"but {list(expected[-1].shape)} with the source"
            )
    ids, mask = tokenize(tokenizer, _PARITY_TEXTS)
    together = _run(exported, ids, mask, subject)
    alone = np.concatenate([_run(exported, *tokenize(tokenizer, [text]), subject) for text in _PARITY_TEXTS])
    all_expected, all_found = np.concatenate(expected), np.concatenate(found)
    return Parity(
        max_abs_diff=float(np.abs(all_expected - all_found).max()),
        min_cosine=float(_cosines(all_expected, all_found).min()),
        alone_vs_batch_diff=float(np.abs(together - alone).max()),
        rows=len(all_found),
    )


def check_parity(parity: Parity, gate: ParityGate, precision: Precision, subject: str) -> None:
    """Compare a measurement with the recipe's thresholds.

    Raises:
        GateError: the measurement fails a threshold.
    """
    # "not <=" and "not >=", so that NaN fails.
    if gate.max_abs_diff is not None and not parity.max_abs_diff <= gate.max_abs_diff:
        raise GateError("parity max_abs_diff", parity.max_abs_diff, gate.max_abs_diff, subject)
    if gate.min_cosine is not None and not parity.min_cosine >= gate.min_cosine:
        raise GateError("parity min_cosine", parity.min_cosine, gate.min_cosine, subject)
    # int8 scales depend on the whole batch, so a text's vector may vary a little with the other texts.
    if precision is Precision.FP32 and not parity.alone_vs_batch_diff <= _ALONE_VS_BATCH_LIMIT:
        raise GateError("parity alone_vs_batch_diff", parity.alone_vs_batch_diff, _ALONE_VS_BATCH_LIMIT, subject)


def measure_head_accuracy(
    exported: Forward, fp32_embeddings: Rows, head: SoftmaxHead, tokenizer: Tokenizer, data: LabelledTexts
) -> Accuracy:
    """Accuracy of a graph with a head on the held-out rows, and the error of its logits compared with fp32.

    Args:
        exported: returns probabilities.
        fp32_embeddings: of the held-out rows, from the fp32 source; ``head`` maps them to logits.
    """
    labels = np.array(data.labels[data.train_rows :])
    found = run_texts(exported, tokenizer, data.texts[data.train_rows :])
    # Log probabilities are logits up to a constant per row, so differences between classes are compared.
    found_logits = np.log(np.maximum(found, 1e-12))
    fp32_logits = head.logits(fp32_embeddings)
    errors = np.abs(np.diff(found_logits, axis=1) - np.diff(fp32_logits, axis=1))
    return Accuracy(
        data=LabelledData.UCI_SENTENCES.value,
        measure="accuracy",
        accuracy=_share(found.argmax(axis=1) == labels),
        fp32_accuracy=_share(fp32_logits.argmax(axis=1) == labels),
        train_rows=data.train_rows,
        held_out_rows=len(labels),
        seed=data.seed,
        max_logit_error=float(errors.max()),
        mean_logit_error=float(errors.mean()),
    )


def measure_neighbour_accuracy(embeddings: Rows, fp32_embeddings: Rows, data: LabelledTexts) -> Accuracy:
    """The fraction of texts whose nearest other text has the same label."""
    labels = np.array(data.labels)
    return Accuracy(
        data=LabelledData.BBC_NEWS.value,
        measure="nearest neighbour",
        accuracy=_neighbour_accuracy(embeddings, labels),
        fp32_accuracy=_neighbour_accuracy(fp32_embeddings, labels),
        train_rows=data.train_rows,
        held_out_rows=len(labels),
        seed=data.seed,
    )


def check_accuracy(accuracy: Accuracy, gate: AccuracyGate, subject: str) -> None:
    """Compare a measurement with the recipe's thresholds.

    Raises:
        GateError: the measurement fails a threshold.
    """
    if not accuracy.accuracy >= gate.min_accuracy:
        raise GateError("accuracy", accuracy.accuracy, gate.min_accuracy, subject)
    drop = accuracy.fp32_accuracy - accuracy.accuracy
    if not drop <= gate.max_drop:
        raise GateError(f"accuracy drop below fp32 ({accuracy.fp32_accuracy:.4g})", drop, gate.max_drop, subject)
    for name in ("max_logit_error", "mean_logit_error"):
        measured, limit = getattr(accuracy, name), getattr(gate, name)
        if limit is not None and not measured <= limit:
            raise GateError(f"accuracy {name}", measured, limit, subject)


def check_quantized(count: int, precision: Precision, subject: str) -> None:
    """Reject an int8 graph without quantised operators.

    Raises:
        GateError: the precision is int8 and ``count`` is 0.
    """
    if precision is Precision.INT8 and count == 0:
        raise GateError("quantised operators", count, 1, subject)


def _run(forward: Forward, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64], subject: str) -> Rows:
    try:
        return forward(ids, mask)
    except Exception as error:  # any exception of the runtime: the graph does not support the batch
        reason = " ".join(str(error).split())
        raise TriremeError(
            f"{subject}: parity gate failed: a batch of shape {list(ids.shape)} is rejected: {reason:.300}"
        ) from error


def _cosines(left: Rows, right: Rows) -> npt.NDArray[np.float64]:
    a, b = left.astype(np.float64), right.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12))


def _neighbour_accuracy(embeddings: Rows, labels: npt.NDArray[np.int64]) -> float:
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -np.inf)
    return _share(labels[similarity.argmax(axis=1)] == labels)


def _share(correct: npt.NDArray[np.bool_] | Sequence[bool]) -> float:
    return float(np.mean(correct))
