"""The readiness agent: a process beside each tritonserver that reports its readiness and heals its models.

``watch`` checks the server and maintains the report, ``app`` serves it over HTTP, ``process`` starts an agent and
reads its report.
"""
