"""The router's logic, free of Triton: rules, predictions, decisions, retries, traffic.

Read in this order: ``route`` (the rules), ``parameters`` (of a request), ``decision`` (the choice as a pure function),
``latency`` (the prediction), ``selection`` (the choice with all state), and its two users: ``dispatcher`` calls
variants, with a ``variant_queue`` before each; ``streams`` only names them.
"""
