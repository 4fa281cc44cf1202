"""Proof on the machine at hand that releases lose no request: ``trireme prove rollout``."""
