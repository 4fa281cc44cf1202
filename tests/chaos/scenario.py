"""A scenario: traffic, a fault, a verdict."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, Protocol

from tests.chaos.health_watch import HealthWatch
from tests.chaos.report import Finding, Report
from tests.chaos.traffic import Traffic
from tests.e2e.serving import wait_until

_PER_SECOND = 40.0
# Enough to see a fault's late consequences, few enough for a suite.
_BEFORE_SECONDS = 0.5
_AFTER_SECONDS = 1.5


class Stack(Protocol):
    """What stands behind an Envoy."""

    @property
    def grpc_address(self) -> str: ...
    @property
    def http_address(self) -> str: ...
    @property
    def admin_address(self) -> str: ...

    def serving(self) -> set[str]:
        """The replicas that are well, by their own account."""


class Scenario:
    """One fault under traffic."""

    def __init__(self, stack: Stack, watch: HealthWatch, traffic: Traffic) -> None:
        self.watch = watch
        self.traffic = traffic
        self.begin = time.monotonic()
        self.facts: dict[str, Any] = {}
        self._stack = stack

    def fault(self) -> None:
        """It happens now: times count from here."""
        self.begin = time.monotonic()

    def wait_for_traffic(self, seconds: float) -> None:
        """Wait until as many further requests are answered as leave in this time."""
        wanted = len(self.traffic.calls) + self.traffic.per_second * seconds
        wait_until(lambda: len(self.traffic.calls) >= wanted, f"{wanted:.0f} requests were answered")

    def wait_until_left(self, name: str) -> None:
        wait_until(lambda: name in self.watch.left_after(self.begin), f"Envoy left {name}")

    def wait_until_well(self, *names: str) -> None:
        """Wait until these replicas, and no others, are serving and given requests."""
        wait_until(lambda: _is_well(self._stack, self.watch, set(names)), f"{', '.join(names)} were well")


@contextlib.contextmanager
def scenario(
    stack: Stack, report: Report, fault: str, *, per_second: float = _PER_SECOND, spared: bool = True
) -> Iterator[Scenario]:
    """Traffic from before the fault until after it is over; it must not lose one request, unless not ``spared``."""
    with HealthWatch(stack.admin_address) as watch:
        wait_until(lambda: _is_well(stack, watch, stack.serving()), "the stack was well")
        with Traffic(stack.grpc_address, stack.http_address, per_second) as traffic:
            running = Scenario(stack, watch, traffic)
            running.wait_for_traffic(_BEFORE_SECONDS)
            yield running
            running.wait_for_traffic(_AFTER_SECONDS)
        left, back = watch.left_after(running.begin), watch.back_after(running.begin)
    report.add(Finding(fault, traffic.summary(), left, back, running.facts))
    if spared:
        assert traffic.failures == []


def _is_well(stack: Stack, watch: HealthWatch, names: set[str]) -> bool:
    taken = {name for name, healthy in watch.healthy.items() if healthy}
    return bool(names) and stack.serving() == names == taken == set(watch.healthy)
