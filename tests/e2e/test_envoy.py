"""The real Envoy in front of replicas with scripted failures, from the callers' point of view."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
import time
import urllib.request
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from trireme.errors import ServerError
from trireme.processes.ports import LOOPBACK, free_ports
from trireme.serving.envoy.config_files import GRPC_CLUSTER, HTTP_CLUSTER
from trireme.serving.envoy.process import EnvoyProcess
from trireme.serving.envoy.proxy_config import ProxyConfig
from trireme.serving.envoy.tls import TlsFiles
from trireme_client import TriremeClient, UnavailableError
from trireme_loadtest.generate.traffic import ClientThreads
from tritonclient.grpc import service_pb2, service_pb2_grpc

from tests.certificates import make_certificates
from tests.deadlines import scaled
from tests.e2e.fake_replica import FakeReplica, answer, fail

# Guards against hanging tests, not measured limits.
_DEADLINE_SECONDS = scaled(20.0)
DEAD_PROCESS = "in ensemble 'e', Stub process 'm_0' is not healthy."
NOT_LOADED = "Request for unknown model: 'm' has no available versions"
# In addition to ModelStreamInfer.
_INFERENCE = {
    *("ServerLive", "ServerReady", "ServerMetadata", "ModelReady", "ModelMetadata", "ModelConfig"),
    *("ModelStatistics", "ModelInfer"),
}


@pytest.fixture
def replicas() -> Iterator[list[FakeReplica]]:
    """Two replicas in zone a, one in zone b."""
    made = [FakeReplica("a0"), FakeReplica("a1"), FakeReplica("b0", zone="b")]
    yield made
    for replica in made:
        replica.close()


@pytest.fixture
def proxy(tmp_path: Path) -> ProxyConfig:
    return ProxyConfig(*free_ports(3), access_log=tmp_path / "access.log")


@pytest.fixture
def start(tmp_path: Path, replicas: Sequence[FakeReplica], proxy: ProxyConfig) -> Iterator[Callable[..., EnvoyProcess]]:
    """Start an Envoy in front of ``replicas`` and wait until all are healthy; keywords change the proxy."""
    with contextlib.ExitStack() as started:

        def starting(**changes: Any) -> EnvoyProcess:
            endpoints = [replica.endpoint for replica in replicas]
            envoy = EnvoyProcess.start(tmp_path / "envoy", replace(proxy, **changes), endpoints)
            started.callback(envoy.stop)
            for cluster in (GRPC_CLUSTER, HTTP_CLUSTER):
                _wait_until(lambda: envoy.healthy(cluster) == {replica.name: True for replica in replicas})  # noqa: B023
            return envoy

        yield starting


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EnvoyProcess]:
    """An Envoy in front of one healthy replica."""
    replica = FakeReplica("a0")
    envoy = EnvoyProcess.start(tmp_path_factory.mktemp("envoy"), ProxyConfig(*free_ports(3)), [replica.endpoint])
    _wait_until(lambda: envoy.healthy(HTTP_CLUSTER) == {"a0": True})
    yield envoy
    envoy.stop()
    replica.close()


@pytest.fixture
def caller(proxy: ProxyConfig) -> Iterator[Caller]:
    with grpc.insecure_channel(f"{LOOPBACK}:{proxy.grpc_port}") as channel:
        yield Caller(channel)


class Caller:
    """Sends requests over gRPC; each response is the name of the replica that sent it."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)

    def ask(self, *, prefix: str = "", sequence: str = "", request_id: str = "", size_bytes: int = 0) -> str:
        metadata = {"x-trireme-prefix": prefix, "x-trireme-sequence": sequence, "x-request-id": request_id}
        request = service_pb2.ModelInferRequest(model_name="m", raw_input_contents=[bytes(size_bytes)])
        answered = self._stub.ModelInfer(
            request, timeout=_DEADLINE_SECONDS, metadata=[pair for pair in metadata.items() if pair[1]]
        )
        return str(answered.model_name)

    def ask_repeatedly(self, times: int) -> Counter[str]:
        return Counter(self.ask() for _ in range(times))

    def stream(self, *request_ids: str) -> list[str]:
        requests = (service_pb2.ModelInferRequest(model_name="m", id=request_id) for request_id in request_ids)
        answered = self._stub.ModelStreamInfer(requests, timeout=_DEADLINE_SECONDS)
        return [message.infer_response.model_name for message in answered]

    def code_of(self, method: str) -> grpc.StatusCode:
        try:
            getattr(self._stub, method)(_request_of(method), timeout=_DEADLINE_SECONDS)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def test_requests_are_distributed_over_all_replicas_on_both_protocols(
    start: Callable[..., EnvoyProcess], caller: Caller, proxy: ProxyConfig
) -> None:
    start()
    assert set(caller.ask_repeatedly(60)) == {"a0", "a1", "b0"}
    assert {_post(proxy)[1]["name"] for _ in range(60)} == {"a0", "a1", "b0"}


def test_envoy_accepts_its_whole_configuration(start: Callable[..., EnvoyProcess], tmp_path: Path) -> None:
    envoy = start()
    stats = _admin(envoy, "/stats?filter=rejected|update_failure")
    taken = {line for line in stats.splitlines() if "update_rejected" in line}
    assert len(taken) >= 7
    assert all(line.endswith(": 0") for line in stats.splitlines() if "update_" in line), stats
    assert "deprecated" not in (tmp_path / "envoy" / "envoy.log").read_text().lower()


def test_prometheus_can_read_the_statistics(start: Callable[..., EnvoyProcess], caller: Caller) -> None:
    envoy = start()
    caller.ask_repeatedly(7)
    metrics = _admin(envoy, "/stats/prometheus")
    # Statistics are flushed at intervals; those of gRPC methods appear last.
    assert 'envoy_cluster_upstream_rq_total{envoy_cluster_name="triton_grpc"} 7' in metrics
    assert "envoy_cluster_membership_healthy" in metrics


@pytest.mark.parametrize(
    "broken",
    [fail(grpc.StatusCode.UNAVAILABLE), "killed"],
    ids=["UNAVAILABLE", "refused"],
)
def test_a_failure_before_the_response_is_retried_on_another_replica(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica], broken: Any
) -> None:
    start()
    for replica in replicas[:2]:
        if broken == "killed":
            replica.kill_grpc()
        else:
            replica.behaviour = broken
    assert caller.ask_repeatedly(100) == {"b0": 100}


def test_requests_in_flight_on_a_dying_replica_are_retried(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    start()
    arrived, gone = threading.Semaphore(0), threading.Event()

    def hang(_: grpc.ServicerContext) -> None:
        arrived.release()
        gone.wait(_DEADLINE_SECONDS)

    # Only one of them dies, because a request that was lost with two replicas is not sent a third time.
    replicas[0].behaviour = hang
    with ThreadPoolExecutor(12) as threads:
        calls = [threads.submit(caller.ask) for _ in range(12)]
        assert arrived.acquire(timeout=_DEADLINE_SECONDS)
        replicas[0].kill_grpc()
        assert {one.result(_DEADLINE_SECONDS) for one in calls} <= {"a1", "b0"}
    gone.set()


@pytest.mark.parametrize("code", [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL])
def test_an_invalid_request_gets_its_error_and_is_not_retried(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica], code: grpc.StatusCode
) -> None:
    envoy = start()
    for replica in replicas:
        replica.behaviour = fail(code)
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as raised:
            caller.ask()
        assert raised.value.code() is code
    assert sum(len(replica.request_ids) for replica in replicas) == 20
    assert all(envoy.healthy(GRPC_CLUSTER).values())


def test_a_stream_is_retried_only_before_its_first_message(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    start()
    for replica in replicas[:2]:
        replica.behaviour = fail(grpc.StatusCode.UNAVAILABLE)
    assert all(caller.stream("fail-first") == ["b0", "b0"] for _ in range(4))
    replicas[2].behaviour = fail(grpc.StatusCode.UNAVAILABLE)
    for replica in replicas:
        replica.request_ids.clear()
    with pytest.raises(grpc.RpcError):
        caller.stream("fail-later")
    assert sum(len(replica.request_ids) for replica in replicas) == 1


def test_large_requests_are_retried_too(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    start()
    for replica in replicas[:2]:
        replica.behaviour = fail(grpc.StatusCode.UNAVAILABLE)
    assert [caller.ask(size_bytes=14 * 1024**2) for _ in range(4)] == ["b0"] * 4
    for replica in replicas[:2]:
        replica.behaviour = answer
    # Too large to be buffered for a retry, but not rejected.
    assert caller.ask(size_bytes=40 * 1024**2) in ("a0", "a1", "b0")


def test_http_is_retried_on_another_replica(
    start: Callable[..., EnvoyProcess], replicas: Sequence[FakeReplica], proxy: ProxyConfig
) -> None:
    start()
    for replica in replicas[:2]:
        replica.http_status = 503
    assert [_post(proxy)[1]["name"] for _ in range(30)] == ["b0"] * 30


def test_requests_to_a_dead_process_are_retried_on_another_replica(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica], proxy: ProxyConfig
) -> None:
    start()
    replicas[0].behaviour = fail(grpc.StatusCode.INTERNAL, DEAD_PROCESS)
    replicas[0].http_status, replicas[0].http_error = 500, DEAD_PROCESS
    assert set(caller.ask_repeatedly(40)) == {"a1", "b0"}
    assert {_post(proxy)[1]["name"] for _ in range(40)} == {"a1", "b0"}
    assert replicas[0].request_ids


def test_requests_for_a_model_that_is_not_loaded_are_retried_on_another_replica(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica], proxy: ProxyConfig
) -> None:
    start()

    def unload_from(lacking: Sequence[FakeReplica]) -> None:
        for replica in lacking:
            replica.behaviour = fail(grpc.StatusCode.NOT_FOUND, NOT_LOADED)
            replica.http_status, replica.http_error = 404, NOT_LOADED

    unload_from(replicas[:1])
    assert set(caller.ask_repeatedly(40)) == {"a1", "b0"}
    assert {_post(proxy)[1]["name"] for _ in range(40)} == {"a1", "b0"}
    assert replicas[0].request_ids
    # An unknown model: two replicas receive the request, and the caller gets their error.
    unload_from(replicas)
    for replica in replicas:
        replica.request_ids.clear()
    with pytest.raises(grpc.RpcError) as raised:
        caller.ask()
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, NOT_LOADED)
    assert _post(proxy) == (404, {"error": NOT_LOADED})
    assert sum(len(replica.request_ids) for replica in replicas) == 2 + 2


@pytest.mark.parametrize("protocol", ["gRPC", "HTTP", "client"])
@pytest.mark.parametrize("poison", ["crashes the server", "crashes the model's process"])
def test_a_poison_request_reaches_only_two_replicas(
    start: Callable[..., EnvoyProcess],
    caller: Caller,
    replicas: Sequence[FakeReplica],
    proxy: ProxyConfig,
    protocol: str,
    poison: str,
) -> None:
    start()
    for replica in replicas:
        if poison == "crashes the server":
            replica.behaviour = lambda _, replica=replica: replica.kill_grpc()
            replica.http_status = 0
        else:
            replica.behaviour = fail(grpc.StatusCode.INTERNAL, DEAD_PROCESS)
            replica.http_status, replica.http_error = 500, DEAD_PROCESS
    reason = DEAD_PROCESS if poison == "crashes the model's process" else "the connection ended"
    if protocol == "gRPC":
        with pytest.raises(grpc.RpcError) as raised:
            caller.ask()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        sentence = raised.value.details()
    elif protocol == "HTTP":
        status, document = _post(proxy)
        assert status == 503
        sentence = document["error"]
    else:
        with TriremeClient(proxy.grpc_address) as client, pytest.raises(UnavailableError) as lost:
            client.infer("m", {"X": np.zeros(1, np.float32)})
        sentence = str(lost.value)
    assert f"not sent again: this request was lost with 2 processes; the last one: {reason}" in sentence
    assert sum(len(replica.request_ids) for replica in replicas) == 2


def test_refused_connections_do_not_count_as_losses(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    start()
    replicas[1].kill_grpc()

    def end_the_first(_: grpc.ServicerContext) -> None:
        if sum(len(replica.request_ids) for replica in replicas) == 1:
            next(replica for replica in replicas if replica.request_ids).kill_grpc()

    replicas[0].behaviour = replicas[2].behaviour = end_the_first
    assert caller.ask() in ("a0", "b0")
    assert sum(len(replica.request_ids) for replica in replicas) == 2


@pytest.mark.parametrize(
    ("error", "status"), [("Unable to parse 'shape': attempt to access JSON non-array as array", 400), ("my own", 500)]
)
def test_an_invalid_http_request_gets_its_error_and_is_not_retried(
    start: Callable[..., EnvoyProcess], replicas: Sequence[FakeReplica], proxy: ProxyConfig, error: str, status: int
) -> None:
    envoy = start()
    for replica in replicas:
        replica.http_status, replica.http_error = 500, error
    assert [_post(proxy) for _ in range(20)] == [(status, {"error": error})] * 20
    assert sum(len(replica.request_ids) for replica in replicas) == 20
    assert all(envoy.healthy(HTTP_CLUSTER).values())


def test_a_slow_request_completes_despite_any_number_of_hedges(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    start(hedge_delay_seconds=0.2)
    for replica in replicas:
        replica.behaviour = lambda _: time.sleep(0.8)
    assert caller.ask()
    assert sum(len(replica.request_ids) for replica in replicas) > 2


def test_http_bodies_that_would_crash_tritonserver_are_rejected(
    start: Callable[..., EnvoyProcess], replicas: Sequence[FakeReplica], proxy: ProxyConfig
) -> None:
    start()
    status, document = _post(proxy, size_bytes=4 * 1024**2)
    assert (status, document["bytes"]) == (200, 4 * 1024**2)
    for replica in replicas:
        replica.request_ids.clear()
    assert _post(proxy, size_bytes=4 * 1024**2 + 1)[0] == 413
    assert not any(replica.request_ids for replica in replicas)


def test_a_replica_receives_no_requests_until_its_agent_is_ready(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    envoy = start()
    replicas[0].ready = False
    _wait_until(lambda: not envoy.healthy(GRPC_CLUSTER)["a0"])
    assert "a0" not in caller.ask_repeatedly(60)
    replicas[0].ready = True
    _wait_until(lambda: "a0" in caller.ask_repeatedly(20))


def test_requests_to_a_hanging_replica_are_hedged(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    start(hedge_delay_seconds=0.5)
    frozen, arrived = threading.Event(), threading.Event()

    def freeze(_: grpc.ServicerContext) -> None:
        arrived.set()
        frozen.wait(2 * _DEADLINE_SECONDS)

    replicas[0].behaviour = freeze
    with ThreadPoolExecutor(16) as threads:
        calls = [threads.submit(caller.ask) for _ in range(16)]
        assert arrived.wait(_DEADLINE_SECONDS)
        assert {one.result(_DEADLINE_SECONDS) for one in calls} <= {"a1", "b0"}
    frozen.set()


def test_without_a_ready_replica_the_others_get_requests(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    envoy = start()
    for replica in replicas:
        replica.ready = False
    _wait_until(lambda: not any(envoy.healthy(GRPC_CLUSTER).values()))
    assert sum(caller.ask_repeatedly(20).values()) == 20


def test_a_repeatedly_failing_replica_is_ejected_even_if_its_agent_is_ready(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    envoy = start()
    replicas[0].behaviour = fail(grpc.StatusCode.UNAVAILABLE)
    _wait_until(lambda: caller.ask_repeatedly(20).total() == 20 and not envoy.healthy(GRPC_CLUSTER)["a0"])
    replicas[0].request_ids.clear()
    caller.ask_repeatedly(20)
    assert not replicas[0].request_ids
    replicas[0].behaviour = answer
    _wait_until(lambda: "a0" in caller.ask_repeatedly(20))


def test_another_zone_takes_over_and_gives_back(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    envoy = start(local_zone="a")
    assert set(caller.ask_repeatedly(60)) == {"a0", "a1"}
    for replica in replicas[:2]:
        replica.kill_grpc()
        replica.ready = False
    # From the first request, before any health check can detect it.
    assert caller.ask_repeatedly(60) == {"b0": 60}
    for replica in replicas[:2]:
        replica.restart_grpc()
        replica.ready = True
    _wait_until(lambda: all(envoy.healthy(GRPC_CLUSTER).values()))
    _wait_until(lambda: not caller.ask_repeatedly(20)["b0"])


def test_requests_beyond_the_limit_are_rejected_immediately(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    envoy = start(max_requests=4)
    arrived, go_on = threading.Semaphore(0), threading.Event()

    def hang(_: grpc.ServicerContext) -> None:
        arrived.release()
        assert go_on.wait(_DEADLINE_SECONDS)

    for replica in replicas:
        replica.behaviour = hang
    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(caller.ask) for _ in range(4)]
        assert all(arrived.acquire(timeout=_DEADLINE_SECONDS) for _ in calls)
        with pytest.raises(grpc.RpcError) as raised:
            caller.ask()
        assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "overflow" in raised.value.details()
        assert sum(len(replica.request_ids) for replica in replicas) == 4
        assert "cluster.triton_grpc.circuit_breakers.default.rq_open: 1" in _admin(envoy, "/stats?filter=rq_open")
        go_on.set()
        assert all(one.result(_DEADLINE_SECONDS) for one in calls)
    assert caller.ask()


def test_endpoints_change_under_load(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    envoy = start()
    with ClientThreads([caller.ask] * 4) as callers:
        for names in ({"b0"}, {"a0", "a1"}, {"a0"}, {"a0", "a1", "b0"}, {"a1"}):
            envoy.set_endpoints([replica.endpoint for replica in replicas if replica.name in names])
            _wait_until(lambda: set(envoy.healthy(GRPC_CLUSTER)) == names)  # noqa: B023
            _wait_until(lambda: set(caller.ask_repeatedly(20)) <= names)  # noqa: B023
    assert callers.failures == []


def test_prompts_with_a_shared_prefix_go_to_the_same_replica_while_it_is_healthy(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    start()
    homes = {prefix: {caller.ask(prefix=prefix) for _ in range(5)} for prefix in map(str, range(24))}
    assert all(len(found) == 1 for found in homes.values())
    assert set.union(*homes.values()) == {"a0", "a1", "b0"}
    replicas[0].kill_grpc()
    replicas[0].ready = False
    for prefix, (home,) in homes.items():
        assert caller.ask(prefix=prefix) == home or home == "a0"


def test_a_sequence_stays_on_one_replica_over_both_protocols_and_is_never_retried(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica], proxy: ProxyConfig
) -> None:
    start()
    for replica in replicas:
        replica.behaviour = lambda _: time.sleep(0.02)
    with ThreadPoolExecutor(24) as threads:
        homes = {
            sequence: set(threads.map(lambda _: caller.ask(sequence=sequence), range(24)))  # noqa: B023
            for sequence in ("7", "order 17", "x")
        }
    assert all(len(names) == 1 for names in homes.values())
    for sequence, json_text in (("7", "7"), ("order%2017", '"order 17"'), ("x", '"x"')):
        body = f'{{"inputs": [{{"parameters": {{"sequence_id": 3}}}}], "parameters": {{"sequence_id": {json_text}}}}}'
        status, document = _post(proxy, body=body.encode())
        assert (status, document["sequence"]) == (200, sequence)
        assert {caller.ask(sequence=sequence)} == {document["name"]}
    for replica in replicas:
        replica.request_ids.clear()
        replica.behaviour = lambda _, replica=replica: replica.kill_grpc()
    with pytest.raises(grpc.RpcError):
        caller.ask(sequence="7")
    assert sum(len(replica.request_ids) for replica in replicas) == 1


def test_grpc_methods_that_control_a_server_are_not_served(start: Callable[..., EnvoyProcess], caller: Caller) -> None:
    start()
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    methods = [method.name for method in service.methods if not method.client_streaming]
    served = {method for method in methods if caller.code_of(method) is not grpc.StatusCode.PERMISSION_DENIED}
    assert served == _INFERENCE


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v2", 200),
        ("/v2/health/ready", 200),
        ("/v2/models/stats", 200),
        ("/v2/models/m", 200),
        ("/v2/models/m/versions/2/config", 200),
        ("/v2/models/m/infer", 200),
        ("/v2/models/m/versions/2/generate_stream", 200),
        ("/v2/repository/index", 403),
        ("/v2//repository/index", 403),
        ("/v2/models/../repository/index", 403),
        ("/v2/%72epository/index", 403),
        ("/v2/repository/models/m/load", 403),
        ("/v2/systemsharedmemory/status", 403),
        ("/v2/cudasharedmemory/region/r/register", 403),
        ("/v2/trace/setting", 403),
        ("/v2/models/m/trace/setting", 403),
        ("/v2/logging", 403),
        ("/metrics", 403),
    ],
)
def test_http_paths_that_control_a_server_are_not_served(front: EnvoyProcess, path: str, status: int) -> None:
    assert _post(front.proxy, path)[0] == status


def test_a_request_has_one_id_for_caller_replica_and_log(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica], proxy: ProxyConfig
) -> None:
    start()
    chosen = f"order-{uuid.uuid4()}"
    caller.ask(request_id=chosen)
    caller.ask()
    received = [request_id for replica in replicas for request_id in replica.request_ids]
    assert chosen in received
    assert all(received)
    assert len(set(received)) == 2

    def logged() -> dict[str, dict[str, Any]]:
        lines = [json.loads(line) for line in proxy.access_log.read_text().splitlines()]
        return {line["request_id"]: line for line in lines}

    _wait_until(lambda: set(logged()) == set(received))
    assert logged()[chosen]["message"] == "POST /inference.GRPCInferenceService/ModelInfer"
    assert logged()[chosen]["attempts"] == 1


def test_a_large_access_log_is_rotated(start: Callable[..., EnvoyProcess], caller: Caller, proxy: ProxyConfig) -> None:
    envoy = start()
    caller.ask()
    _wait_until(lambda: proxy.access_log.stat().st_size > 0)
    envoy.rotate_log(limit_bytes=0)
    _wait_until(lambda: bool(caller.ask()) and proxy.access_log.is_file() and proxy.access_log.stat().st_size > 0)


def test_tls_callers_are_served_and_plaintext_callers_are_not(
    start: Callable[..., EnvoyProcess], caller: Caller, proxy: ProxyConfig, tmp_path: Path
) -> None:
    folder = make_certificates(tmp_path)
    start(tls=TlsFiles(folder / "server.pem", folder / "server.key"))
    assert _ask_over_tls(proxy, (folder / "ca.pem").read_bytes())
    with pytest.raises(grpc.RpcError):
        _ask_over_tls(proxy, (folder / "stranger.pem").read_bytes())
    with pytest.raises(grpc.RpcError):
        caller.ask()


def test_with_a_ca_callers_must_present_a_certificate(
    start: Callable[..., EnvoyProcess], proxy: ProxyConfig, tmp_path: Path
) -> None:
    folder = make_certificates(tmp_path)
    start(tls=TlsFiles(folder / "server.pem", folder / "server.key", folder / "ca.pem"))
    authority, key, certificate = ((folder / name).read_bytes() for name in ("ca.pem", "client.key", "client.pem"))
    assert _ask_over_tls(proxy, authority, key, certificate)
    with pytest.raises(grpc.RpcError):
        _ask_over_tls(proxy, authority)


def test_shutdown_waits_for_requests_in_flight(
    start: Callable[..., EnvoyProcess], caller: Caller, replicas: Sequence[FakeReplica]
) -> None:
    envoy = start()
    arrived, go_on = threading.Event(), threading.Event()

    def hang(_: grpc.ServicerContext) -> None:
        arrived.set()
        assert go_on.wait(_DEADLINE_SECONDS)

    for replica in replicas:
        replica.behaviour = hang
    with ThreadPoolExecutor(2) as threads:
        calls = threads.submit(caller.ask)
        assert arrived.wait(_DEADLINE_SECONDS)
        ending = threads.submit(envoy.finish)
        _wait_until(lambda: not _connects(envoy.proxy.grpc_port))
        assert envoy.is_alive()
        go_on.set()
        assert calls.result(_DEADLINE_SECONDS)
        ending.result(_DEADLINE_SECONDS)
    assert not envoy.is_alive()


def test_a_port_in_use_is_named(tmp_path: Path, proxy: ProxyConfig) -> None:
    taken = FakeReplica("taken")
    try:
        with pytest.raises(ServerError, match=f"{taken.endpoint.grpc_port}"):
            EnvoyProcess.start(tmp_path / "envoy", replace(proxy, grpc_port=taken.endpoint.grpc_port), [])
    finally:
        taken.close()


def _request_of(method: str) -> Any:
    service = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    return getattr(service_pb2, service.methods_by_name[method].input_type.name)()


def _ask_over_tls(
    proxy: ProxyConfig, authority: bytes, key: bytes | None = None, certificate: bytes | None = None
) -> str:
    credentials = grpc.ssl_channel_credentials(authority, key, certificate)
    with grpc.secure_channel(f"{LOOPBACK}:{proxy.grpc_port}", credentials) as channel:
        return Caller(channel).ask()


def _post(
    proxy: ProxyConfig, path: str = "/v2/models/m/infer", size_bytes: int = 2, body: bytes = b""
) -> tuple[int, dict[str, Any]]:
    # http.client sends the path unchanged.
    connection = http.client.HTTPConnection(LOOPBACK, proxy.http_port, timeout=_DEADLINE_SECONDS)
    with contextlib.closing(connection):
        connection.request("POST", path, body=body or bytes(size_bytes))
        answered = connection.getresponse()
        return answered.status, json.loads(answered.read())


def _admin(envoy: EnvoyProcess, path: str) -> str:
    with urllib.request.urlopen(f"http://{envoy.proxy.admin_address}{path}", timeout=_DEADLINE_SECONDS) as answered:
        return str(answered.read().decode())


def _connects(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1.0):
            return True
    except OSError:
        return False


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "timed out"
        time.sleep(0.05)
