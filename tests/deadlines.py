"""The hang guards of tests: how long one waits for what should have happened long before.

``TRIREME_TEST_TIMEOUT_SCALE`` multiplies them all, for a machine that is slow or busy.
"""

from __future__ import annotations

import os

_SCALE = float(os.environ.get("TRIREME_TEST_TIMEOUT_SCALE", "1"))


def scaled(seconds: float) -> float:
    """``seconds``, times the setting."""
    return seconds * _SCALE
