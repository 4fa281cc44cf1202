"""The operator's side of the router: its rules on disk, and what it would decide."""
