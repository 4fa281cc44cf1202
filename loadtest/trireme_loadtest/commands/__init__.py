"""The commands that this package adds to ``trireme``: bench, load and prove."""
