"""Proof on this machine that releases lose no request: ``trireme prove rollout``."""
