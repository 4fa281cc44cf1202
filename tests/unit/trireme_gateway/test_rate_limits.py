from __future__ import annotations

import pytest
from trireme_gateway.errors import ApiError
from trireme_gateway.keys import ApiKey
from trireme_gateway.rate_limits import Bucket, KeyRateLimits, RateLimits


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def key(requests=None, tokens=None):
    return ApiKey("k", "0" * 64, requests, tokens, 0.0)


def test_bucket_fills_up_evenly_and_holds_a_minutes_worth():
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(60)
    assert bucket.left() == 0
    clock.now = 10
    assert bucket.left() == pytest.approx(10)
    assert bucket.seconds_until(30) == pytest.approx(20)
    clock.now = 1000
    assert bucket.left() == 60


def test_bucket_below_zero_must_fill_up_first():
    clock = Clock()
    bucket = Bucket(60, clock)
    bucket.take(90)
    assert bucket.seconds_until(1) == pytest.approx(31)


def test_key_without_limits_has_no_limit_headers():
    limits = KeyRateLimits(key())
    for _ in range(1000):
        limits.enter()
    assert limits.headers() == {}


def test_limits_stay_with_a_key_until_it_is_another():
    limits = RateLimits()
    first = limits.of(key(requests=1))
    first.enter()
    with pytest.raises(ApiError) as caught:
        limits.of(key(requests=1)).enter()
    assert caught.value.status == 429
    limits.of(key(requests=2)).enter()
