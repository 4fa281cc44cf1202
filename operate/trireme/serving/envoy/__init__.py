"""The proxy in front of the replicas: a real Envoy.

``*.yaml.j2`` and ``*.lua`` are its configuration, ``config_files`` writes it where a running Envoy takes it over at
once, ``process`` runs it, ``supervised`` keeps it running.
"""
