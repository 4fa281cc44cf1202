"""Exports a model from its source to a checked version directory: fetch, convert, check, then write."""
