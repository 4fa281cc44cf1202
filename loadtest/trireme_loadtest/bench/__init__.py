"""``trireme bench``: one module per benchmark; shared code is in ``harness`` and ``peers``."""
