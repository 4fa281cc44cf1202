"""Which waiting texts are encoded together.

On a CPU, padding is computed like text. So a batch is made of texts of like length, out of all that wait, around the
one that has waited longest: it is always in the next batch, so no text starves.
"""

from __future__ import annotations

from collections.abc import Sequence

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
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    anchor = order.index(0)
    best, least = [0], float("inf")
    # Padding grows with the longest text: for each choice of that one, take in shorter ones while it lowers the waste.
    for end in range(anchor, len(order)):
        longest = lengths[order[end]]
        if (end - anchor + 1) * longest > _MOST_TOKENS and end > anchor:
            break
        waste = float(_RUN_COST_TOKENS)
        for start in range(end, -1, -1):
            count = end - start + 1
            if count * longest > _MOST_TOKENS and start < anchor:
                break
            waste += longest - lengths[order[start]]
            if start <= anchor and waste / count < least:
                best, least = order[start : end + 1], waste / count
    return best
