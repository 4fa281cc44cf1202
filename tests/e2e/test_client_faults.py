"""The client while servers die, freeze, restart and reject requests."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from trireme.processes.server import ServerFlags
from trireme_client import (
    DeadlineError,
    Endpoint,
    HealthPolicy,
    RetryPolicy,
    TriremeClient,
    UnavailableError,
)
from trireme_loadtest.generate.traffic import ClientThreads

from tests.deadlines import scaled
from tests.servers import throw_away_server

MODELS = Path(__file__).with_name("client_models")
HEALTH = HealthPolicy(interval_ms=200, probe_deadline_ms=1000, eject_after=2)
FP32 = {"FP32": np.ones((1, 4), np.float32)}
# The guarantee for a stream whose server has died or frozen.
STREAM_ENDS_WITHIN_SECONDS = 5.0


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults") / "models"
    for model in ("identity", "count_up"):
        shutil.copytree(MODELS / model, folder / model)
    return folder


@pytest.fixture
def servers(repository):
    """Three replicas of the same models."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(throw_away_server(ServerFlags(repository))) for _ in range(3)]


@pytest.fixture
def server(repository):
    with throw_away_server(ServerFlags(repository)) as running:
        yield running


def kill(server):
    """Kill the server with SIGKILL; its stubs end by themselves."""
    os.kill(server.pid, signal.SIGKILL)
    server.process.wait(timeout=scaled(30))


@contextlib.contextmanager
def frozen(server):
    """The server and its stubs, stopped: stopping the server alone would lose its stubs' locks."""
    family = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
    for process in family:
        process.suspend()
    try:
        yield
    finally:
        for process in reversed(family):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()


def test_callers_do_not_notice_one_of_three_replicas_killed_or_frozen(servers):
    addresses = [server.grpc_address for server in servers]
    with TriremeClient(addresses, health=HEALTH) as client:

        def infer():
            result = client.infer("identity", FP32, ["FP32_OUT"], deadline_ms=20_000)
            assert result["FP32_OUT"].tolist() == [[1.0] * 4]

        with ClientThreads([infer] * 6) as callers:
            time.sleep(2)
            kill(servers[0])
            time.sleep(2)
            with frozen(servers[1]):
                time.sleep(6)
        assert callers.failures == []
        assert len(callers.seconds) > 100


def test_other_zones_are_used_only_when_the_own_zone_is_down(servers):
    zones = [Endpoint(server.grpc_address, zone) for server, zone in zip(servers, "abb", strict=True)]
    with TriremeClient(zones, zone="a", health=HEALTH) as client:
        endpoints = {client.infer("identity", FP32, ["FP32_OUT"]).timings.endpoint for _ in range(20)}
        assert endpoints == {servers[0].grpc_address}
        kill(servers[0])
        endpoints = {client.infer("identity", FP32, ["FP32_OUT"]).timings.endpoint for _ in range(20)}
        assert endpoints == {servers[1].grpc_address, servers[2].grpc_address}


@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_a_stream_ends_soon_after_its_server_is_down(server, how):
    with TriremeClient(server.grpc_address, health=HEALTH) as client:
        answers = client.stream("count_up", {"COUNT": [100_000], "EVERY_MS": [10]}, deadline_ms=60_000)
        next(answers)
        with contextlib.ExitStack() as stack:
            if how == "killed":
                kill(server)
            else:
                stack.enter_context(frozen(server))
            # A hang guard; the elapsed time is asserted separately.
            began = time.monotonic()
            with pytest.raises(UnavailableError):
                for _ in answers:
                    pass
            assert time.monotonic() - began < STREAM_ENDS_WITHIN_SECONDS


def test_shared_memory_is_registered_again_with_a_restarted_server(repository):
    with throw_away_server(ServerFlags(repository)) as first:
        flags = first.flags
        with TriremeClient(first.grpc_address, retry=RetryPolicy(max_attempts=50, max_backoff_ms=500)) as client:
            with client.shared_memory(4096) as region:
                x = region.put(FP32["FP32"])
                client.infer("identity", {"FP32": x}, ["FP32_OUT"])
                kill(first)
                with pytest.raises((UnavailableError, DeadlineError)):
                    client.infer("identity", {"FP32": x}, ["FP32_OUT"], deadline_ms=500)
                with throw_away_server(flags):
                    result = client.infer("identity", {"FP32": x}, ["FP32_OUT"], deadline_ms=20_000)
                    assert result["FP32_OUT"].tolist() == [[1.0] * 4]
            assert not list(Path("/dev/shm").glob("trireme-client-*"))
