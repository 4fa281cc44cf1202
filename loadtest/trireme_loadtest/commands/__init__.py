"""The commands that this package adds to ``trireme``: load and bench."""
