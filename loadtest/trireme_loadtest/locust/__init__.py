"""Users and verdicts for Locust, which imports them from a locustfile."""
