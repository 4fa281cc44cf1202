"""A scenario: traffic, a fault, a verdict."""

from __future__ import annotations

import contextlib
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from trireme_loadtest.generate.requests import grpc_body, grpc_outputs, http_body, text_tensors
from trireme_loadtest.generate.targets import RequestSet
from trireme_loadtest.generate.traffic import Traffic

from tests.chaos.health_watch import HealthWatch
from tests.chaos.report import ChaosReport, FaultResult
from tests.deadlines import scaled
from tests.e2e.serving import wait_until

_PER_SECOND = 40.0
# Enough to detect late effects of a fault, but short enough for a suite.
_BEFORE_SECONDS = 0.5
_AFTER_SECONDS = 1.5
_HTTP = "HTTP echo_worker"
_TEXT = "hello my old friend"
DEADLINE_SECONDS = scaled(20.0)


class Stack(Protocol):
    """Replicas behind an Envoy."""

    @property
    def grpc_address(self) -> str: ...
    @property
    def http_address(self) -> str: ...
    @property
    def admin_address(self) -> str: ...

    def serving(self) -> set[str]:
        """The replicas that report themselves healthy."""


def echo_requests(stack: Stack) -> list[RequestSet]:
    """Requests over gRPC to a route and to a variant, and over HTTP to a model."""
    inputs, url = text_tensors(_TEXT), f"http://{stack.http_address}/v2/models/echo_worker/infer"
    grpc_models = ("echo", "echo_standard")
    return [
        *(RequestSet(f"gRPC {one}", "grpc", stack.grpc_address, [grpc_body(one, inputs)]) for one in grpc_models),
        RequestSet(_HTTP, "http", url, [http_body(inputs)]),
    ]


def read_echo(name: str, response: bytes) -> None:
    """Check a response; raises ValueError if it is wrong."""
    if name == _HTTP:
        (answer,) = next(one["data"] for one in json.loads(response)["outputs"] if one["name"] == "ANSWER")
    else:
        answer = grpc_outputs(response)["ANSWER"][0, 0].decode()
    if answer != _TEXT.upper():
        raise ValueError(f"wrong response: {answer!r}")


class Scenario:
    """One fault under traffic."""

    def __init__(self, stack: Stack, watch: HealthWatch, traffic: Traffic[None]) -> None:
        self.watch = watch
        self.traffic = traffic
        self.begin = time.monotonic()
        self.facts: dict[str, Any] = {}
        self._stack = stack

    def fault(self) -> None:
        """Mark the time of the fault, from which all times are measured."""
        self.begin = time.monotonic()

    def wait_for_traffic(self, seconds: float) -> None:
        """Wait for as many further responses as requests are sent in this time."""
        wanted = len(self.traffic.outcomes) + self.traffic.requests_per_second * seconds
        wait_until(lambda: len(self.traffic.outcomes) >= wanted, f"{wanted:.0f} requests are done")

    def answered_since(self, begin: float) -> bool:
        """Whether every kind of request that was due after ``begin`` got a correct response."""
        answered = {one.name for one in self.traffic.outcomes if one.due >= begin and not one.failure}
        return answered == {one.name for one in echo_requests(self._stack)}

    def wait_until_left(self, name: str) -> None:
        wait_until(lambda: name in self.watch.left_after(self.begin), f"Envoy removed {name}")

    def wait_until_healthy(self, *names: str) -> None:
        """Wait until exactly these replicas are serving and receive requests."""
        wait_until(lambda: _is_healthy(self._stack, self.watch, set(names)), f"{', '.join(names)} are healthy")


@contextlib.contextmanager
def scenario(
    stack: Stack, report: ChaosReport, fault: str, *, per_second: float = _PER_SECOND, lossless: bool = True
) -> Iterator[Scenario]:
    """Run traffic from before the fault until after recovery; if ``lossless``, no request may fail."""
    with HealthWatch(stack.admin_address) as watch:
        wait_until(lambda: _is_healthy(stack, watch, stack.serving()), "the stack is healthy")
        with Traffic(echo_requests(stack), per_second, read_echo, DEADLINE_SECONDS) as traffic:
            running = Scenario(stack, watch, traffic)
            running.wait_for_traffic(_BEFORE_SECONDS)
            yield running
            running.wait_for_traffic(_AFTER_SECONDS)
        left, back = watch.left_after(running.begin), watch.back_after(running.begin)
    report.add(FaultResult(fault, _summary(traffic), left, back, running.facts))
    if lossless:
        assert traffic.failures == []


def _is_healthy(stack: Stack, watch: HealthWatch, names: set[str]) -> bool:
    taken = {name for name, healthy in watch.healthy.items() if healthy}
    return bool(names) and stack.serving() == names == taken == set(watch.healthy)


def _summary(traffic: Traffic[None]) -> Mapping[str, Any]:
    seconds = np.array([one.seconds for one in traffic.outcomes if not one.failure] or [np.nan])
    p50, p99, slowest = np.percentile(seconds, [50, 99, 100]) * 1000
    return {
        "requests": len(traffic.outcomes),
        "failures": len(traffic.failures),
        "failures_by_kind": dict(Counter(one.failure for one in traffic.outcomes if one.failure)),
        "p50_ms": round(float(p50), 1),
        "p99_ms": round(float(p99), 1),
        "slowest_ms": round(float(slowest), 1),
    }
