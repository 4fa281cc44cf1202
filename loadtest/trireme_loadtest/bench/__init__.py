"""``trireme bench``: every module of this package but ``command`` is a benchmark; what they share is in ``shape``."""
