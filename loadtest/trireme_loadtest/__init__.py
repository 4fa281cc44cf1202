"""Load tests and benchmarks of a running Trireme, and proofs of its releases.

| package | contents |
|---|---|
| ``commands`` | ``trireme load``, ``bench`` and ``prove`` |
| ``bench``, ``locust``, ``prove`` | benchmarks; Locust users; releases on a served copy under traffic |
| ``report`` | a run as text, HTML, JSON, JUnit and plots |
| ``load_test`` | one open-loop run against a server, and its ``record`` |
| ``judge`` | objectives, the verdict on a run, comparison of two runs |
| ``generate`` | all traffic: arrivals, requests, targets, open and closed loops |
"""
