"""How many examples property tests draw: few while one works, many in ``make test-all``."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("quick", max_examples=25, deadline=None)
settings.register_profile("thorough", max_examples=500, deadline=None)
settings.load_profile(os.environ.get("TRIREME_HYPOTHESIS_PROFILE", "quick"))
