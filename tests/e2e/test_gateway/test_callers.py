"""Callers that disconnect, stop reading or stay idle; engines that fail or die during a stream."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time

import httpx
import psutil
import pytest
from trireme.processes.server import ServerFlags

from tests.e2e.gateway_process import DEADLINE_SECONDS, GatewayProcess, sum_metric
from tests.e2e.test_gateway.conftest import write_models
from tests.servers import throw_away_server

LONG = {"model": "scripted", "prompt": "say=2000 every_ms=50", "max_tokens": 2000}
SHORT = {"model": "scripted", "prompt": "say=2"}


def wait_until(condition, what):
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.1)


def running(server, model="scripted"):
    return sum_metric(f"http://{server.metrics_address}/metrics", "trireme_generation_running", model=model)


def generated(server):
    return sum_metric(
        f"http://{server.metrics_address}/metrics", "trireme_generation_output_tokens_total", model="scripted"
    )


def send(gateway, path, body):
    """A request on a bare socket; nothing of its answer is read."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(gateway.address)
    content = json.dumps(body).encode()
    head = f"POST /v1/{path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["scripted", "pinned"])
def test_callers_who_leave_free_their_places_in_the_engine(gateway, scripted, model, stream):
    before = generated(scripted)
    callers = [send(gateway, "completions", {**LONG, "model": model, "stream": stream}) for _ in range(10)]
    wait_until(lambda: running(scripted) == 10, "all were generated for")
    left_at = time.monotonic()
    for caller in callers:
        caller.close()
    wait_until(lambda: running(scripted) == 0, "the engine had nothing to do")
    assert time.monotonic() - left_at < 5.0  # the promise is one second; the engine's metrics lag by half of one
    wait_until(lambda: gateway.metric("trireme_gateway_streams") == 0, "the gateway had no streams")
    # 2,000 each were asked for.
    assert generated(scripted) - before < 10 * 200
    assert gateway.post("completions", SHORT).json()["usage"]["completion_tokens"] == 2
    assert "Traceback" not in gateway.log_path.read_text()


def test_caller_who_does_not_read_is_cut_off_and_holds_no_memory(scripted, tmp_path):
    with GatewayProcess(
        tmp_path, "--stall-timeout", "1", triton=scripted.grpc_address, triton_http=scripted.http_address
    ) as gateway:
        gateway.post("completions", SHORT)
        process = psutil.Process(gateway.process.pid)
        before = process.memory_info().rss
        # 12 MB each, more than the system keeps for a connection.
        flood = {"model": "scripted", "messages": [{"role": "user", "content": "say=8000"}], "stream": True,
                 "logprobs": True, "top_logprobs": 20}  # fmt: skip
        callers = [send(gateway, "chat/completions", flood) for _ in range(5)]
        wait_until(lambda: gateway.metric("trireme_gateway_streams") == 5, "all streamed")
        wait_until(lambda: running(scripted) == 0, "the engine had nothing to do")
        wait_until(lambda: gateway.metric("trireme_gateway_streams") == 0, "the callers were cut off")
        assert process.memory_info().rss - before < 100 << 20
        for caller in callers:
            caller.close()
        assert len([line for line in gateway.lines() if "read nothing for 1 s" in line["message"]]) == 5


def test_idle_connections_block_no_caller(gateway):
    with contextlib.ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(socket.create_connection(gateway.address))
        assert gateway.post("completions", SHORT).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_engine_that_fails_before_its_first_word_is_a_500(gateway, stream):
    answer = gateway.post("completions", {"model": "scripted", "prompt": "fail_after=0", "stream": stream})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "engine_failed"


def read_broken_stream(gateway, prompt):
    """The events until the connection closes, which must happen without the terminating chunk."""
    response = b""
    request = {"model": "scripted", "prompt": prompt, "stream": True}
    with httpx.stream("POST", f"{gateway.url}/v1/completions", json=request, timeout=DEADLINE_SECONDS) as answer:
        try:
            for part in answer.iter_raw():
                response += part
        except httpx.RemoteProtocolError:
            pass
        else:
            raise AssertionError("the body ended as if all were well")
    return [json.loads(event.removeprefix("data: ")) for event in response.decode().split("\n\n") if event]


def test_engine_that_fails_on_the_way_ends_the_stream_with_an_error(gateway):
    *texts, last = read_broken_stream(gateway, "say=9 fail_after=3")
    assert "".join(event["choices"][0]["text"] for event in texts) == "w0 w1 w2"
    assert last["error"]["code"] == "engine_failed"
    assert "scripted failure" in last["error"]["message"]


def test_engine_that_dies_on_the_way_ends_the_stream_and_others_never_notice(tmp_path):
    with (
        throw_away_server(ServerFlags(write_models(tmp_path / "models"))) as server,
        GatewayProcess(tmp_path, triton=server.grpc_address) as gateway,
    ):
        *texts, last = read_broken_stream(gateway, "say=9 every_ms=20 die_after=3")
        assert texts
        assert last["error"]["type"] == "server_error"
        other = gateway.post("completions", {"model": "scripted_small", "prompt": "say=2"})
        assert other.json()["choices"][0]["text"] == "w0 w1"
        server.kill()  # with a dead process in it, it would take half a minute to end


def test_unreachable_triton_is_a_503(tmp_path):
    models = write_models(tmp_path / "models")
    with (
        throw_away_server(ServerFlags(models)) as server,
        GatewayProcess(tmp_path, triton=server.grpc_address) as gateway,
    ):
        assert httpx.get(f"{gateway.url}/healthz").status_code == 200
        server.kill()
        answer = gateway.post("completions", SHORT)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "unavailable"
        assert httpx.get(f"{gateway.url}/healthz").status_code == 503


def test_gateway_that_ends_lets_a_stream_end_first(scripted, tmp_path):
    with GatewayProcess(tmp_path, triton=scripted.grpc_address) as gateway:
        request = {"model": "scripted", "prompt": "say=20 every_ms=50", "stream": True}
        with httpx.stream("POST", f"{gateway.url}/v1/completions", json=request, timeout=DEADLINE_SECONDS) as answer:
            parts = answer.iter_text()
            response = next(parts)
            os.kill(gateway.process.pid, 15)
            response += "".join(parts)
    assert response.endswith("data: [DONE]\n\n")
