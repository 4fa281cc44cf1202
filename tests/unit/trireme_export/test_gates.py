from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic
from trireme.errors import GateError, TriremeError
from trireme.repository.manifest import Accuracy, Parity
from trireme_export import gates
from trireme_export.exporter import fit_head
from trireme_export.forward import Forward, load_tokenizer, onnx_forward, run_texts, source_forward
from trireme_export.graph import add_head, encoder_graph, quantize
from trireme_export.recipe import AccuracyGate, LabelledData, ParityGate, Precision

from tests.unit.trireme_export.tiny import labelled_texts, tiny_encoder, tiny_tokenizer

FP32_GATE = ParityGate(max_abs_diff=1e-4)
SENTIMENT_GATE = AccuracyGate(
    LabelledData.UCI_SENTENCES, min_accuracy=0.7, max_drop=0.05, max_logit_error=3.0, mean_logit_error=0.5
)
PASSING = Parity(max_abs_diff=1e-7, min_cosine=1.0, alone_vs_batch_diff=0.0, rows=17)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def tokenizer(tmp_path: Path, pad_side: str = "right"):
    tiny_tokenizer(pad_side).save(str(tmp_path / "tokenizer.json"))
    return load_tokenizer(tmp_path / "tokenizer.json", 64)


def test_graph_that_flattens_its_batch_fails_parity_at_the_first_batch_of_two(tmp_path):
    source = source_forward(saved(tiny_encoder(), tmp_path / "source.onnx"))
    # Declared symbolic, so only running it shows the fault.
    flattened = onnx_forward(encoder_graph(tiny_encoder(flattens_batch=True), "tiny"))

    with pytest.raises(TriremeError, match=r"parity gate failed: a batch of shape \[2, "):
        gates.measure_parity(source, flattened, tokenizer(tmp_path), "tiny")


@pytest.mark.parametrize("pad_side", ["right", "left"])
@pytest.mark.parametrize("token_types", [True, False])
def test_text_has_the_same_embedding_alone_and_in_a_batch_with_any_padding_of_the_tokenizer_file(
    tmp_path, pad_side, token_types
):
    source = tiny_encoder(token_types=token_types)
    exported = onnx_forward(encoder_graph(source, "tiny"))
    words = tokenizer(tmp_path, pad_side)

    parity = gates.measure_parity(source_forward(saved(source, tmp_path / "s.onnx")), exported, words, "tiny")
    gates.check_parity(parity, FP32_GATE, Precision.FP32, "tiny")

    long = " ".join(f"w{index % 40}" for index in range(60))
    alone = exported(*gates.tokenize(words, ["w3"]))
    together = exported(*gates.tokenize(words, ["w3", long]))
    assert np.abs(alone[0] - together[0]).max() < 1e-4


def test_graph_that_attends_to_padding_fails_even_if_it_equals_its_source(tmp_path):
    source = tiny_encoder(leaks_padding=True)
    exported = onnx_forward(encoder_graph(source, "tiny"))

    parity = gates.measure_parity(
        source_forward(saved(source, tmp_path / "s.onnx")), exported, tokenizer(tmp_path), "tiny"
    )

    assert parity.max_abs_diff < 1e-5
    with pytest.raises(GateError, match=r"alone_vs_batch_diff gate failed: measured .*, threshold 0.0001"):
        gates.check_parity(parity, FP32_GATE, Precision.FP32, "tiny")


@pytest.mark.parametrize(
    ("parity", "gate", "precision"),
    [
        (replace(PASSING, max_abs_diff=0.2), FP32_GATE, Precision.FP32),
        (replace(PASSING, max_abs_diff=float("nan")), FP32_GATE, Precision.FP32),
        (replace(PASSING, min_cosine=0.9), ParityGate(min_cosine=0.95), Precision.INT8),
        (replace(PASSING, min_cosine=float("nan")), ParityGate(min_cosine=0.95), Precision.INT8),
    ],
)
def test_parity_over_its_threshold_or_not_a_number_fails(parity, gate, precision):
    with pytest.raises(GateError):
        gates.check_parity(parity, gate, precision, "tiny")


def test_parity_within_its_threshold_passes():
    gates.check_parity(PASSING, FP32_GATE, Precision.FP32, "tiny")


class OutlierClassifier:
    """A two-layer classifier with one weight column a thousand times larger than the others, and 200 labelled rows."""

    def __init__(self, tmp_path: Path) -> None:
        source = tiny_encoder(outlier=1000.0)
        self.encoder = encoder_graph(source, "tiny")
        self.fp32 = onnx_forward(self.encoder)
        self.tokenizer = tokenizer(tmp_path)
        self.data = labelled_texts(train_rows=100)
        rows = run_texts(self.fp32, self.tokenizer, self.data.texts)
        # The decision depends on small differences, as in a trained classifier.
        head = fit_head(rows[:100], self.data.labels[:100])
        self.head = gates.SoftmaxHead(head.weights * 10, head.bias * 10)
        self.held_out_rows = rows[100:]

    def accuracy_of(self, encoder: onnx.ModelProto) -> Accuracy:
        exported: Forward = onnx_forward(add_head(encoder, self.head.weights, self.head.bias))
        return gates.measure_head_accuracy(exported, self.held_out_rows, self.head, self.tokenizer, self.data)


def test_outlier_column_fails_quantised_per_tensor_and_passes_per_channel(tmp_path):
    classifier = OutlierClassifier(tmp_path)
    quantize_dynamic(
        classifier.encoder, tmp_path / "per_tensor.onnx", per_channel=False, weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )  # fmt: skip
    per_tensor = classifier.accuracy_of(onnx.load(tmp_path / "per_tensor.onnx"))
    per_channel = classifier.accuracy_of(quantize(classifier.encoder))

    with pytest.raises(GateError, match=r"measured .*, threshold"):
        gates.check_accuracy(per_tensor, SENTIMENT_GATE, "tiny")
    gates.check_accuracy(per_channel, SENTIMENT_GATE, "tiny")
    assert per_tensor.mean_logit_error > 3 * per_channel.mean_logit_error


def test_logit_error_alone_fails_the_gate():
    accuracy = Accuracy("uci_sentences", "accuracy", 0.9, 0.9, 100, 100, 3, max_logit_error=4.0, mean_logit_error=0.1)

    with pytest.raises(GateError, match="max_logit_error gate failed: measured 4, threshold 3"):
        gates.check_accuracy(accuracy, SENTIMENT_GATE, "tiny")


def test_drop_below_fp32_fails_even_if_the_accuracy_is_sufficient():
    accuracy = Accuracy("uci_sentences", "accuracy", 0.8, 0.9, 100, 100, 3, max_logit_error=0.0, mean_logit_error=0.0)

    with pytest.raises(GateError, match=r"drop below fp32 \(0.9\) gate failed: measured 0.1, threshold 0.05"):
        gates.check_accuracy(accuracy, SENTIMENT_GATE, "tiny")


def test_int8_without_a_quantised_operator_fails():
    with pytest.raises(GateError, match=r"measured 0, threshold 1"):
        gates.check_quantized(0, Precision.INT8, "tiny")
    gates.check_quantized(0, Precision.FP32, "tiny")


def test_neighbour_accuracy_counts_the_nearest_other_text():
    rows = np.array([[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [0.8, 0.2]], np.float32)
    data = labelled_texts(0, rows=5)
    data.labels[:] = [0, 0, 1, 1, 1]

    accuracy = gates.measure_neighbour_accuracy(rows, rows, data)

    assert accuracy.accuracy == pytest.approx(0.8)
