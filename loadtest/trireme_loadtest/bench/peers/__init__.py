"""Peers to compare our server with: the same model without a server, and a typical naive server."""
