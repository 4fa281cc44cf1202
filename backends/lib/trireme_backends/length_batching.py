"""Which waiting texts are encoded together.

On a CPU, padding is computed like text. So a batch is made of texts of like length, out of all that wait, around the
one that has waited longest: it is always in the next batch, so no text starves.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# A run reads all weights from memory once, which takes as long as computing this many tokens. Measured with MiniLM on a
# server CPU: 8 in fp32, 4 in int8.
_RUN_COST_TOKENS = 8
# A run is at most this long, so that a short text never waits for long behind a flood of others.
_MOST_TOKENS = 1024


def choose_batch(lengths: Sequence[int]) -> list[int]:
    """The indices of the texts to encode next; ``lengths`` are those of all that wait, the oldest first.

    Of all windows of the sorted lengths that hold the oldest text, it is the one with the least waste a text: the run's
    own cost and the padding, both in tokens, shared by the texts in it.
    """
    order = np.argsort(lengths, kind="stable")
    ascending = np.take(lengths, order)
    before = np.concatenate(([0], np.cumsum(ascending)))
    oldest = int(np.flatnonzero(order == 0)[0])

    # All windows at once: a row for each last text, a column for each first one.
    last, first = np.ogrid[oldest : len(order), : oldest + 1]
    count = last - first + 1
    tokens = count * ascending[last]
    waste = (_RUN_COST_TOKENS + tokens - (before[last + 1] - before[first])) / count
    waste[(tokens > _MOST_TOKENS) & (count > 1)] = np.inf
    row, column = np.unravel_index(np.argmin(waste), waste.shape)
    chosen: list[int] = order[column : oldest + row + 1].tolist()
    return chosen
