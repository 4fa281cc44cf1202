"""Routing logic, independent of Triton: rules, predictions, decisions, retries, traffic.

Reading order: ``route`` (the rules), ``parameters`` (of a request), ``decision`` (the choice as a pure function),
``latency`` (the prediction), ``selection`` (the choice with all state), and its two users: ``dispatcher`` calls
variants, each behind a ``variant_queue``; ``streams`` only names them.
"""
