"""The front door: a real Envoy before the replicas.

``resources`` says what Envoy shall do, ``files`` puts that where a running Envoy sees it at once, ``process`` runs it.
"""
