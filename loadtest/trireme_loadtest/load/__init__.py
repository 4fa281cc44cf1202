"""``trireme load``: every module of this package is a subcommand."""
