"""Chooses which waiting texts are encoded together.

On a CPU, padding costs as much as text, so a batch consists of texts of similar length. It always includes the text
that has waited longest, so no text starves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Each run reads all weights from memory once, which takes as long as computing this many tokens. Measured with MiniLM
# on a server CPU: 8 in fp32, 4 in int8.
_RUN_COST_TOKENS = 8
# Limits a run, so that a short text never waits long behind many others.
_MAX_BATCH_TOKENS = 1024


def choose_batch(lengths: Sequence[int]) -> list[int]:
    """The indices of the texts to encode next; ``lengths`` are those of all waiting texts, the oldest first.

    Of all windows of the sorted lengths that contain the oldest text, this is the one with the least waste per text:
    the fixed cost of a run plus the padding, both in tokens, divided by the number of texts.
    """
    order = np.argsort(lengths, kind="stable")
    ascending = np.take(lengths, order)
    before = np.concatenate(([0], np.cumsum(ascending)))
    oldest = int(np.flatnonzero(order == 0)[0])

    # All windows at once: one row per last text, one column per first text.
    last, first = np.ogrid[oldest : len(order), : oldest + 1]
    count = last - first + 1
    tokens = count * ascending[last]
    waste = (_RUN_COST_TOKENS + tokens - (before[last + 1] - before[first])) / count
    waste[(tokens > _MAX_BATCH_TOKENS) & (count > 1)] = np.inf
    row, column = np.unravel_index(np.argmin(waste), waste.shape)
    chosen: list[int] = order[column : oldest + row + 1].tolist()
    return chosen
