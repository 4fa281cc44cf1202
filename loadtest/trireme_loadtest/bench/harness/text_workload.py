"""The workload of text benchmarks: a model's files, and sentences that are the same in every run."""

from __future__ import annotations

import json
import random
import tarfile
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import SetupError
from trireme.repository.folders import ModelRepository
from trireme.repository.manifest import sha256_of
from trireme.repository.model_config import load_model_config
from trireme_backends.text import TextTokenizer

SEED = 20
LEAST_TOKENS, MOST_TOKENS = 6, 77


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """An ONNX graph from token ids to embedding, and its tokenizer.

    Attributes:
        model_sha256: variants with the same hash share one in-process limit.
    """

    model: Path
    tokenizer: Path
    model_sha256: str

    @classmethod
    def of_ensemble(cls, repository: ModelRepository, name: str) -> ModelFiles:
        """Return the files of the pinned steps of an ensemble.

        Raises:
            NotFoundError: the model does not exist.
            SetupError: it is not an ensemble of a tokenizer and an ONNX model, or it is not exported yet.
        """
        steps = load_model_config(repository.model(name).config_path).steps
        found = {}
        for step in steps:
            folder = repository.model(step.model).version_dir(step.version)
            found.update(
                {file: folder / file for file in ("model.onnx", "tokenizer.json") if (folder / file).is_file()}
            )
        if len(found) < 2:
            raise SetupError(f"the steps of {name} have no model.onnx and tokenizer.json", "trireme export --all")
        return cls(found["model.onnx"], found["tokenizer.json"], sha256_of(found["model.onnx"]))


def review_sentences(sources_dir: Path, tokenizer_path: Path, count: int = 512) -> list[str]:
    """``count`` movie review sentences of 6 to 77 tokens (mean 20), in a shuffled order.

    Source: Kotzias et al., "From Group to Individual Labels Using Deep Features", KDD 2015 (UCI "Sentiment Labelled
    Sentences"), from the package that export downloads.

    Raises:
        SetupError: the package is not downloaded yet.
    """
    archive = next(sources_dir.glob("sentiment-*/*.tgz"), None)
    if archive is None:
        raise SetupError(f"the review sentences are not in {sources_dir}", "trireme export --all")
    with tarfile.open(archive) as tar:
        file = tar.extractfile("package/test/fixtures/imdb.json")
        assert file is not None
        texts = [row["text"].strip() for row in json.load(file)]
    tokenizer = TextTokenizer(tokenizer_path, MOST_TOKENS + 1)
    fitting = [
        text
        for text, ids in zip(texts, tokenizer.encode(texts), strict=True)
        if LEAST_TOKENS <= len(ids) <= MOST_TOKENS
    ]
    return random.Random(SEED).sample(fitting, count)
