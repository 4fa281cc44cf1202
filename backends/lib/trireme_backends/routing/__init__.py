"""The router's logic, free of Triton: rules, predictions, decisions, fallback, traffic.

Read in this order: ``route`` (the rules), ``parameters`` (what a caller asks), ``decision`` (which variant),
``latency`` (the prediction), ``lane`` (the queue before one variant), ``dispatcher`` (all of it together).
"""
