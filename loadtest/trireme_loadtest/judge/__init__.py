"""Decides whether a run meets its objectives, and how two runs differ."""
