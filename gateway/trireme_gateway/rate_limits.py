"""Rate limits of each key: requests per minute and tokens per minute.

Each limit is a token bucket that holds one minute's allowance and refills evenly. A request is accepted while every
bucket holds at least one; tokens are deducted as they are counted, so their bucket may fall below zero and must refill.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from trireme_gateway.errors import ApiError
from trireme_gateway.keys import ApiKey

_SECONDS = 60.0


class Bucket:
    """A token bucket."""

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
        """Seconds until the bucket holds ``amount``."""
        return max(0.0, amount - self.left()) * _SECONDS / self.per_minute


class KeyRateLimits:
    """The buckets of one key."""

    def __init__(self, key: ApiKey) -> None:
        self.key = key
        limits = {"requests": key.requests_per_minute, "tokens": key.tokens_per_minute}
        self._buckets = {name: Bucket(limit) for name, limit in limits.items() if limit is not None}

    def enter(self) -> None:
        """Accept a request.

        Raises:
            ApiError: 429 with Retry-After.
        """
        for name, bucket in self._buckets.items():
            if bucket.left() < 1:
                wait_s = bucket.seconds_until(1)
                raise ApiError(
                    429,
                    f"The limit of {bucket.per_minute} {name} per minute for key {self.key.name!r} is reached; "
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
        headers = {}
        for name, bucket in self._buckets.items():
            headers[f"x-ratelimit-limit-{name}"] = str(bucket.per_minute)
            headers[f"x-ratelimit-remaining-{name}"] = str(max(0, math.floor(bucket.left())))
            headers[f"x-ratelimit-reset-{name}"] = f"{bucket.seconds_until(bucket.per_minute):.3f}s"
        return headers


class RateLimits:
    """The rate limits of all keys."""

    def __init__(self) -> None:
        self._of: dict[str, KeyRateLimits] = {}

    def of(self, key: ApiKey) -> KeyRateLimits:
        """A key's limits, reset when the key has changed."""
        found = self._of.get(key.name)
        if found is None or found.key != key:
            found = self._of[key.name] = KeyRateLimits(key)
        return found
