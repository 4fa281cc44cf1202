"""Observers of the router for tests."""

from __future__ import annotations

from typing import Any


class Silent:
    """Ignores every notification."""

    def _ignore(self, *args: Any, **values: Any) -> None: ...

    replied = refused = called = predicted = breaker_changed = traffic_error = _ignore
