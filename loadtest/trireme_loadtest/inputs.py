"""What a load test asks: golden samples of the model, or the lines of a file."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from trireme.errors import ConfigError
from trireme.repository.folders import ModelFolder
from trireme.repository.golden import Tensors, load_golden

from trireme_loadtest.errors import SpecError
from trireme_loadtest.requests import text_tensors

MIXED_TEXTS = 512
SEED = 20
# Words a text: log-normal, like those of the review sentences the benchmarks use.
MEDIAN_WORDS, SPREAD, MOST_WORDS = 15, 0.52, 120


def from_file(path: Path) -> list[Tensors]:
    """One request of one ``TEXT`` for each line that is not empty.

    Raises:
        ConfigError: no lines, or not UTF-8.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise ConfigError(path, f"not UTF-8: byte {error.start}") from None
    if not lines:
        raise ConfigError(path, "holds no line to send; write one text a line")
    return [text_tensors(line) for line in lines]


def from_golden(folder: ModelFolder) -> list[Tensors]:
    """The requests of the model's golden samples; of a text model, their words in texts of mixed length.

    A few golden samples are of a few lengths, and length is what a text model's time goes by.

    Raises:
        SpecError: it has none.
    """
    samples = [sample.inputs for sample in load_golden(folder)]
    if not samples:
        raise SpecError(f"{folder.name} has no golden samples in {folder.golden_dir}; name a file with --inputs")
    if all(set(inputs) == {"TEXT"} for inputs in samples):
        texts = [value.decode() for inputs in samples for value in inputs["TEXT"].reshape(-1).tolist()]
        return [text_tensors(text) for text in texts_of_mixed_length(texts, MIXED_TEXTS)]
    return samples


def texts_of_mixed_length(texts: Sequence[str], count: int) -> list[str]:
    """``count`` texts out of the words of ``texts``, of log-normal length; the same in every run."""
    words = sorted({word for text in texts for word in text.split()})
    if not words:
        raise SpecError("the golden samples hold no word to make texts of; name a file with --inputs")
    chance = random.Random(SEED)
    lengths = [min(MOST_WORDS, max(1, round(MEDIAN_WORDS * chance.lognormvariate(0, SPREAD)))) for _ in range(count)]
    return [" ".join(chance.choices(words, k=length)) for length in lengths]
