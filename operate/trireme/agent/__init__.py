"""The readiness agent: one process beside each tritonserver that says whether it may get requests, and heals it.

``watch`` looks at the server and keeps the ``report``; ``app`` tells it over HTTP; ``process`` is an agent as seen by
the one who started it.
"""
