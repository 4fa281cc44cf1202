"""Envoy, the proxy in front of the replicas.

``*.yaml.j2`` and ``*.lua`` are its configuration. ``config_files`` renders it into directories that a running Envoy
watches, ``process`` runs Envoy, ``supervised`` restarts it.
"""
