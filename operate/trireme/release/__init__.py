"""Releases: a new version in, a bad one out, without one failed request.

Every verb is a plan: a list of small steps that can each be done twice and undone (``step``). The plan is journaled
before its first step and each step before it is done (``journal``), so whatever kills the command, the next one
finishes or undoes it (``engine``).
"""
