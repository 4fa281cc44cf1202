"""Every variant in turn fails in every way: no request that has a fallback fails, and the reason is right."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

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
    # The calls that hang were left, and few: a hundred requests did not leave a hundred.
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
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            try:
                echo.ask("flood", model=variant)
            except Exception:  # its full queue refuses most of them: that is the point
                stop.wait(0.01)

    threads = [threading.Thread(target=flood) for _ in range(24)]
    for thread in threads:
        thread.start()
    try:
        _assert_answered_by_others(echo, variant, {"overloaded", "late", "breaker_open"}, some_by_itself=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)


def _assert_answered_by_others(echo: Echo, failing: str, faults: set[str], *, some_by_itself: bool = False) -> None:
    """100 requests, 8 at a time, of which none fails; then, well again, the variant is let back."""
    results: list[Any] = []

    def caller() -> None:
        for number in range(100 // 8 + 1):
            try:
                results.append(echo.ask(f"text {number}", tier=TIERS[failing]))
            except Exception as error:
                results.append(error)

    threads = [threading.Thread(target=caller) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads), "callers hang"
    failures = [result for result in results if isinstance(result, Exception)]
    assert failures == []
    moved = [result for result in results if result.variant != failing]
    assert moved
    if not some_by_itself:
        assert len(moved) == len(results)
    assert {result.reason["reason"] for result in moved} <= {"fallback", "tier_unavailable", "moved_down"}
    tried = [one for result in moved for one in result.reason.get("tried", []) if one["variant"] == failing]
    assert {one["fault"] for one in tried} <= faults
    if not some_by_itself:
        assert tried


@pytest.fixture(autouse=True)
def _let_back(echo: Echo) -> Any:
    """After each fault every variant answers its own tier again: breakers are half opened by probes, and close."""
    yield
    for name in TIERS:
        echo.repository.behave(name)
    deadline = time.monotonic() + 60
    for name, tier in TIERS.items():
        while echo.ask("well again", tier=tier).variant != name:
            assert time.monotonic() < deadline, f"{name} was not let back"
            time.sleep(0.1)


def _stub(echo: Echo, variant: str) -> psutil.Process:
    """The only stub process of a variant's worker; that of a worker which was loaded again ends a while later."""
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
    """Whether a process is a variant's stub: its command line names the model's folder."""
    # The server does not collect the stubs that were killed.
    with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
        return any(f"/{variant}_worker/" in part for part in process.cmdline())
    return False


def _kill(process: psutil.Process) -> None:
    process.kill()
    deadline = time.monotonic() + scaled(30)
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "a killed process goes on"
        time.sleep(0.01)
