"""What a load test refuses.

TriremeError
├── SpecError          what was asked for makes no run: a rate of zero, a weight below zero
└── TargetError        the server is not there, or does not have the model
"""

from __future__ import annotations

from trireme.errors import TriremeError


class SpecError(TriremeError):
    """What was asked for makes no run."""


class TargetError(TriremeError):
    """The server is not there, or does not have the model."""
