"""The choice of a replica for a request, and the loss of replicas."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter

import pytest
from trireme_client import (
    Endpoint,
    FakeServer,
    HealthPolicy,
    RetryPolicy,
    SequenceStep,
    ServerFaultError,
    TriremeClient,
    UnavailableError,
)

from tests.deadlines import scaled
from tests.unit.trireme_client.conftest import act_when, add_models, silent_port

ROW = {"X": [[1.0, 2.0]]}
FAST = HealthPolicy(interval_ms=50, probe_deadline_ms=500, eject_after=2, resolve_ms=50)
HANG_GUARD_SECONDS = scaled(20.0)


@pytest.fixture
def three():
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(FakeServer()) for _ in range(3)]
        for server in servers:
            add_models(server)
        yield servers


def addresses(servers):
    return [server.address for server in servers]


def shares(servers):
    return [server.calls["ModelInfer"] for server in servers]


def wait_until(condition):
    end = time.monotonic() + HANG_GUARD_SECONDS
    while not condition():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.01)


def test_healthy_replicas_share_calls_equally(three, connect):
    client = connect(addresses(three))
    for _ in range(300):
        client.infer("double", ROW)
    assert all(abs(share - 100) <= 10 for share in shares(three))


def test_threads_share_replicas_equally(three):
    with TriremeClient(addresses(three)) as client:
        threads = [threading.Thread(target=lambda: [client.infer("double", ROW) for _ in range(50)]) for _ in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(shares(three)) == 600
    assert all(abs(share - 200) <= 20 for share in shares(three))


def test_a_slow_replica_gets_fewer_calls(three):
    three[0].delay("double", 50)
    with TriremeClient(addresses(three)) as client:
        threads = [threading.Thread(target=lambda: [client.infer("double", ROW) for _ in range(20)]) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert three[0].calls["ModelInfer"] < min(shares(three)[1:])


def test_the_own_zone_is_preferred_until_it_is_down(three, connect):
    zones = [Endpoint(three[0].address, "a"), Endpoint(three[1].address, "b"), Endpoint(three[2].address, "b")]
    client = connect(zones, zone="a")
    for _ in range(20):
        client.infer("double", ROW)
    assert shares(three) == [20, 0, 0]
    three[0].stop()
    for _ in range(20):
        client.infer("double", ROW)
    assert sorted(shares(three)) == [10, 10, 20]


def test_callers_do_not_notice_the_loss_of_a_replica(three, connect):
    client = connect(addresses(three), health=FAST)
    for _ in range(30):
        client.infer("double", ROW)
    three[1].stop()
    for _ in range(60):
        assert client.infer("double", ROW)["Y"].tolist() == [[2.0, 4.0]]


def test_a_replica_that_returns_gets_calls_again(three):
    port = int(three[0].address.rpartition(":")[2])
    with TriremeClient(addresses(three), health=FAST) as client:
        client.infer("double", ROW)
        three[0].stop()
        for _ in range(10):
            client.infer("double", ROW)
        with FakeServer(port=port) as back:
            add_models(back)
            wait_until(lambda: client.infer("double", ROW) and back.calls["ModelInfer"] > 3)


def test_a_replica_that_is_not_ready_gets_no_calls(three):
    with TriremeClient(addresses(three), health=FAST) as client:
        client.infer("double", ROW)
        three[2].ready = False
        wait_until(lambda: _idle_for_a_round(client, three[2]))
        three[2].ready = True
        wait_until(lambda: not _idle_for_a_round(client, three[2]))


def _idle_for_a_round(client, server):
    before = server.calls["ModelInfer"]
    for _ in range(6):
        client.infer("double", ROW)
    return server.calls["ModelInfer"] == before


def test_a_dead_model_on_one_replica_is_skipped(three, connect):
    client = connect(addresses(three))
    three[0].fail_next("double", "INTERNAL", "Stub process 'double_0_0' is not healthy.", times=1000)
    for _ in range(30):
        client.infer("double", ROW)
    assert three[0].calls["ModelInfer"] <= 2


def test_a_dead_model_on_the_only_replica_is_a_server_fault(fake, connect):
    fake.fail_next("double", "INTERNAL", "Stub process 'double_0_0' is not healthy.", times=10)
    with pytest.raises(ServerFaultError, match="not healthy"):
        connect(fake.address).infer("double", ROW)


def test_a_probe_that_is_a_real_inference_finds_the_dead_model(three):
    health = HealthPolicy(interval_ms=50, eject_after=1, probe_model="double", probe_inputs=ROW)
    with TriremeClient(addresses(three), health=health, retry=RetryPolicy(max_attempts=1)) as client:
        three[0].fail_next("double", "INTERNAL", "scripted failure", times=10_000)
        client.is_ready()
        wait_until(lambda: _all_succeed(client))


def _all_succeed(client):
    try:
        for _ in range(6):
            client.infer("double", ROW)
    except (ServerFaultError, UnavailableError):
        # Unavailable: in flight while the replica was reconnected, and not retryable.
        return False
    return True


def test_a_model_that_only_some_replicas_have_is_found(three, connect):
    three[0].remove_model("double")
    three[1].remove_model("double")
    client = connect(addresses(three))
    for _ in range(5):
        client.infer("double", ROW)


def test_calls_of_a_frozen_replica_go_elsewhere(three, connect):
    with silent_port() as frozen:
        client = connect([frozen, three[0].address], health=FAST)
        for _ in range(20):
            client.infer("double", ROW, deadline_ms=10_000)
    assert three[0].calls["ModelInfer"] == 20


def test_requests_in_flight_on_a_replica_that_freezes_are_sent_elsewhere(three, connect):
    client = connect(addresses(three[:2]), health=FAST)
    for _ in range(4):
        client.infer("double", ROW)
    before = three[0].calls["ModelInfer"]
    three[0].delay("double", 60_000)
    with act_when(lambda: three[0].calls["ModelInfer"] > before, lambda: setattr(three[0], "ready", False)):
        for _ in range(2):
            assert client.infer("double", ROW, deadline_ms=15_000)["Y"].tolist() == [[2.0, 4.0]]
    assert three[0].calls["ModelInfer"] == before + 1


def test_all_replicas_down_is_unavailable(three, connect):
    client = connect(addresses(three))
    client.infer("double", ROW)
    for server in three:
        server.stop()
    with pytest.raises(UnavailableError):
        client.infer("double", ROW, deadline_ms=5000)


def test_a_sequence_stays_with_one_replica(three, connect):
    client = connect(addresses(three))
    for step in range(30):
        client.infer("double", ROW, sequence=SequenceStep(7, start=step == 0))
    assert sorted(shares(three)) == [0, 0, 30]
    for sequence in range(1, 60):
        client.infer("double", ROW, sequence=SequenceStep(sequence, start=True))
    assert min(shares(three)) > 5


def test_replicas_follow_the_ips_of_a_host_name(monkeypatch, connect):
    addresses_of_host = ["127.0.0.1"]

    def getaddrinfo(host, port, **_):
        assert host == "triton.test"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in addresses_of_host]

    monkeypatch.setattr("trireme_client.runtime.socket.getaddrinfo", getaddrinfo)
    with FakeServer() as one:
        add_models(one)
        port = int(one.address.rpartition(":")[2])
        client = connect(f"triton.test:{port}", health=FAST, retry=RetryPolicy(max_attempts=20))
        client.infer("double", ROW, deadline_ms=10_000)
        with FakeServer(host="127.0.0.2", port=port) as two:
            add_models(two)
            addresses_of_host.append("127.0.0.2")
            wait_until(lambda: client.infer("double", ROW) and two.calls["ModelInfer"] > 2)
            addresses_of_host.remove("127.0.0.1")
            wait_until(lambda: _idle_for_a_round(client, one))


@pytest.mark.parametrize(
    ("address", "host", "port", "scheme"),
    [
        ("127.0.0.1:9001", "127.0.0.1", 9001, "grpc"),
        ("triton", "triton", 8001, "grpc"),
        ("grpc://triton:1", "triton", 1, "grpc"),
        ("[::1]:9001", "::1", 9001, "grpc"),
        ("http://triton", "triton", 8000, "http"),
        ("https://triton:443", "triton", 443, "https"),
    ],
)
def test_addresses_are_read(address, host, port, scheme):
    endpoint = Endpoint(address)
    assert (endpoint.host, endpoint.port, endpoint.scheme) == (host, port, scheme)


@pytest.mark.parametrize("address", ["", "ftp://x:1", "host:port", "http://h/path", "user@host:1", "h:70000"])
def test_an_invalid_address_is_rejected(address):
    with pytest.raises(ValueError, match="is not an address"):
        TriremeClient(address)


def test_a_client_without_an_address_is_rejected():
    with pytest.raises(ValueError, match="at least one address"):
        TriremeClient([])


def test_replicas_are_chosen_by_requests_in_flight(three):
    started = Counter()
    for index, server in enumerate(three):
        server.delay("double", 300)
        started[index] = 0
    with TriremeClient(addresses(three)) as client:
        client.is_ready()
        threads = [threading.Thread(target=client.infer, args=("double", ROW)) for _ in range(9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert shares(three) == [3, 3, 3]
