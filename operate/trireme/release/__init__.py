"""Releases: publish new versions and revert bad ones without a failed request.

Every command builds a plan: a list of small steps, each idempotent and reversible (``step``). The plan is journaled
before its first step, and each step before it runs (``journal``). If a command is killed, the next one finishes or
undoes its plan (``engine``).
"""
