"""Load tests, benchmarks and proofs of releases of a running Trireme.

| package | holds |
|---|---|
| ``commands`` | ``trireme load``, ``bench`` and ``prove`` |
| ``bench``, ``locust``, ``prove`` | benchmarks; Locust's users; releases of a served copy under traffic |
| ``report`` | a run as text, HTML, JSON, JUnit and plots |
| ``load_test`` | one open-loop run against a server, and its ``record`` |
| ``judge`` | objectives, the verdict on a run, two runs compared |
| ``generate`` | arrivals, requests, targets, open and closed loops: all traffic comes from here |
"""
