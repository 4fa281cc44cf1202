"""Requests from the command line: one text to a task, golden samples to every model."""
