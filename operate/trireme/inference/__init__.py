"""Requests from the command line: texts to a task, golden samples to every model."""
