"""The sentences that the text models are measured on: real ones, the same in every run."""

from __future__ import annotations

import json
import random
import tarfile
from pathlib import Path

from trireme.errors import SetupError
from trireme_backends.text import TextTokenizer

SEED = 20
LEAST_TOKENS, MOST_TOKENS = 6, 77


def review_sentences(sources_dir: Path, tokenizer_path: Path, count: int = 512) -> list[str]:
    """``count`` movie review sentences of 6 to 77 tokens (mean 20), in a shuffled order.

    Source: Kotzias et al., "From Group to Individual Labels Using Deep Features", KDD 2015 (UCI "Sentiment Labelled
    Sentences"), out of the package that export fetches.

    Raises:
        SetupError: the package was not fetched yet.
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
