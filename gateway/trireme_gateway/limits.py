"""Limits of requests and tokens a minute, for each key.

A token bucket each: it holds a minute's worth and fills up evenly. A request is let in while there is one left of each;
its tokens are taken as they are counted, so the bucket of tokens may go below zero and must fill up first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from trireme_gateway.errors import ApiError
from trireme_gateway.keys import ApiKey

_SECONDS = 60.0


class Bucket:
    """What is left of a minute's worth."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute, self._clock = per_minute, clock
        self._left, self._at = float(per_minute), clock()

    def left(self) -> float:
        now = self._clock()
        self._left = min(self.per_minute, self._left + (now - self._at) * self.per_minute / _SECONDS)
        self._at = now
        return self._left

    def take(self, amount: float) -> None:
        self._left = self.left() - amount

    def seconds_until(self, amount: float) -> float:
        """How long until so much is there."""
        return max(0.0, amount - self.left()) * _SECONDS / self.per_minute


class KeyLimits:
    """The buckets of one key."""

    def __init__(self, key: ApiKey) -> None:
        self.key = key
        limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
        self._buckets = {name: Bucket(limit) for name, limit in limits.items() if limit is not None}

    def enter(self) -> None:
        """Let a request in.

        Raises:
            ApiError: 429, with the time to wait.
        """
        for name, bucket in self._buckets.items():
            if bucket.left() < 1:
                wait_s = bucket.seconds_until(1)
                raise ApiError(
                    429,
                    f"The limit of {bucket.per_minute} {name} a minute of key {self.key.name!r} is reached; "
                    f"try again in {wait_s:.1f} s",
                    kind=name,
                    code="rate_limit_exceeded",
                    headers={"retry-after": str(math.ceil(wait_s)), **self.headers()},
                )
        if "requests" in self._buckets:
            self._buckets["requests"].take(1)

    def count_tokens(self, tokens: int) -> None:
        if "tokens" in self._buckets:
            self._buckets["tokens"].take(tokens)

    def headers(self) -> dict[str, str]:
        """OpenAI's ``x-ratelimit-*``."""
        told = {}
        for name, bucket in self._buckets.items():
            told[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
            told[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.left())))
            told[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_until(bucket.per_minute):.3f}s"
        return told


class Limits:
    """The limits of all keys."""

    def __init__(self) -> None:
        self._of: dict[str, KeyLimits] = {}

    def of(self, key: ApiKey) -> KeyLimits:
        """A key's limits: new ones where the key is another than before."""
        found = self._of.get(key.name)
        if found is None or found.key != key:
            found = self._of[key.name] = KeyLimits(key)
        return found
