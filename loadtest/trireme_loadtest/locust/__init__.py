"""Users and verdicts for Locust, imported by locustfiles."""
