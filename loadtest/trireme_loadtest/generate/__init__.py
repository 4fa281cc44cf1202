"""Sends the requests of load tests, benchmarks and release proofs."""
