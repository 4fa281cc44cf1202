"""Every variant in turn fails in every way: no request with a fallback fails, and the reason is correct."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from trireme_loadtest.generate.traffic import ClientThreads

from tests.deadlines import scaled

if TYPE_CHECKING:
    from conftest import Echo

TIERS = {"small": "economy", "medium": "standard", "large": "premium"}
each_variant = pytest.mark.parametrize("variant", list(TIERS))


@each_variant
def test_variant_that_raises(echo: Echo, variant: str) -> None:
    echo.repository.behave(variant, raises=True)
    _assert_answered_by_others(echo, variant, {"error", "breaker_open"})


@each_variant
def test_variant_that_hangs_five_seconds(echo: Echo, variant: str) -> None:
    echo.repository.behave(variant, seconds=5)
    _assert_answered_by_others(echo, variant, {"late", "breaker_open"})
    stub = _stub(echo, variant)
    # The hanging calls were abandoned, and few: a hundred requests did not abandon a hundred.
    echo.repository.behave(variant)
    assert stub.is_running()


@each_variant
def test_variant_that_is_unloaded(echo: Echo, variant: str) -> None:
    echo.client.unload_model(variant)
    try:
        _assert_answered_by_others(echo, variant, {"not_ready", "breaker_open"})
    finally:
        echo.client.load_model(variant)


@each_variant
def test_variant_whose_stub_is_killed(echo: Echo, variant: str) -> None:
    _kill(_stub(echo, variant))
    try:
        _assert_answered_by_others(echo, variant, {"unhealthy", "late", "breaker_open"})
    finally:
        # Triton starts a dead stub again only when a file of the version has changed.
        (echo.repository.path / f"{variant}_worker" / "1" / "model.py").touch()
        echo.client.load_model(f"{variant}_worker")


@each_variant
def test_variant_that_is_overloaded(echo: Echo, variant: str) -> None:
    echo.repository.behave(variant, seconds=0.4)
    # Its full queue rejects most of them, as intended.
    with ClientThreads([lambda: echo.send("flood", model=variant)] * 24, pause_seconds=0.01):
        _assert_answered_by_others(echo, variant, {"overloaded", "late", "breaker_open"}, some_by_itself=True)


def _assert_answered_by_others(echo: Echo, faulty: str, faults: set[str], *, some_by_itself: bool = False) -> None:
    """100 requests, 8 at a time, of which none fails; then the variant is healthy and receives requests again."""
    with ThreadPoolExecutor(8) as callers:
        results = list(callers.map(lambda number: echo.send(f"text {number}", tier=TIERS[faulty]), range(104)))
    moved = [result for result in results if result.variant != faulty]
    assert moved
    if not some_by_itself:
        assert len(moved) == len(results)
    assert {result.reason["reason"] for result in moved} <= {"fallback", "tier_unavailable", "moved_down"}
    tried = [one for result in moved for one in result.reason.get("tried", []) if one["variant"] == faulty]
    assert {one["fault"] for one in tried} <= faults
    if not some_by_itself:
        assert tried


@pytest.fixture(autouse=True)
def _let_back(echo: Echo) -> Any:
    """After each fault every variant serves its own tier again: probes half-open the breakers, which then close."""
    yield
    for name in TIERS:
        echo.repository.behave(name)
    deadline = time.monotonic() + 60
    for name, tier in TIERS.items():
        while echo.send("well again", tier=tier).variant != name:
            assert time.monotonic() < deadline, f"{name} was not let back"
            time.sleep(0.1)


def _stub(echo: Echo, variant: str) -> psutil.Process:
    """The only stub process of a variant's worker; the stub of a reloaded worker ends a little later."""
    deadline = time.monotonic() + scaled(60)
    while True:
        stubs = [
            process for process in psutil.Process(echo.server.pid).children(recursive=True) if _runs(process, variant)
        ]
        if len(stubs) == 1:
            return stubs[0]
        assert time.monotonic() < deadline, f"{len(stubs)} stubs of {variant}"
        time.sleep(0.05)


def _runs(process: psutil.Process, variant: str) -> bool:
    """Whether a process is a variant's stub: its command line contains the model's folder."""
    # The server does not reap killed stubs.
    with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
        return any(f"/{variant}_worker/" in part for part in process.cmdline())
    return False


def _kill(process: psutil.Process) -> None:
    process.kill()
    deadline = time.monotonic() + scaled(30)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "a killed process goes on"
        time.sleep(0.01)
