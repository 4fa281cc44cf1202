"""``trireme bench``: every module of this package is a benchmark; what they share is in ``harness`` and ``peers``."""
