"""Faults and changes of the platform in containers, under load; callers must not notice any of them."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from trireme.errors import ServerError
from trireme_client import OperatorClient
from trireme_loadtest.generate.traffic import ClientThreads

from tests.deadlines import scaled
from tests.deploy.stack import REPLICAS, Stack
from tests.e2e.serving import wait_until

pytestmark = pytest.mark.docker

GRPC_CALLERS, HTTP_CALLERS = 3, 1
# Enough to keep the machine busy without overload.
PAUSE_SECONDS = 0.05
ANSWER_DEADLINE_SECONDS = scaled(30)


@pytest.mark.parametrize(("signal", "replica"), [("KILL", "a"), pytest.param("STOP", "b", marks=pytest.mark.slow)])
def test_callers_do_not_notice_a_server_that_dies_or_freezes_and_it_recovers(
    stack: Stack, signal: str, replica: str
) -> None:
    triton = f"triton-{replica}"
    restarts = int(stack.inspect(triton, ".RestartCount"))
    with _under_load(stack, f"{triton} gets SIG{signal}") as callers:
        wait_until(lambda: len(callers.seconds) > 0, "callers got responses")
        stack.inside(triton, "sh", "-c", f"kill -{signal} $(pidof tritonserver)")
        wait_until(lambda: int(stack.inspect(triton, ".RestartCount")) > restarts, "Docker restarted it")
        wait_until(lambda: stack.inspect(triton, ".State.Health.Status") == "healthy", "its models are loaded")
        wait_until(lambda: stack.is_ready(replica), "its agent reports ready")
    assert callers.failures == []


def test_an_invalid_setting_stops_the_roll_at_the_first_replica(stack: Stack) -> None:
    before = stack.containers()
    wrong = pytest.raises(ServerError, match=r"triton-a does not start: .* set TRITON_SHM_SIZE=\d+m in \.env")
    with _under_load(stack, "an invalid setting is rolled out") as callers, wrong:
        stack.with_settings(TRITON_SHM_SIZE="8m").roll()
    assert stack.containers()["triton-b"] == before["triton-b"]
    assert callers.failures == []


@pytest.mark.parametrize("rolled", [REPLICAS[:1], pytest.param(REPLICAS, marks=pytest.mark.slow)], ids="".join)
def test_callers_do_not_notice_the_roll_out_of_a_changed_setting(stack: Stack, rolled: tuple[str, ...]) -> None:
    before = stack.containers()
    with _under_load(stack, "the configuration is rolled out") as callers:
        stack.with_settings(TRITON_SHM_SIZE="80m").roll(*rolled)
    after = stack.containers()
    for replica in rolled:
        assert after[f"triton-{replica}"] != before[f"triton-{replica}"]
        assert stack.inspect(f"triton-{replica}", ".HostConfig.ShmSize") == str(80 * 1024**2)
    assert callers.failures == []


@contextmanager
def _under_load(stack: Stack, what: str) -> Iterator[ClientThreads]:
    def infer_grpc(client: OperatorClient) -> None:
        text = {"TEXT": np.array([[b"good"]], dtype=np.object_)}
        answer = client.infer("sentiment_economy", text, ANSWER_DEADLINE_SECONDS)
        assert answer.outputs["LABEL"].tolist() == [[b"positive"]]

    def infer_http() -> None:
        body = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["good"]}]}
        url = stack.url("ENVOY_HTTP_PORT", "/v2/models/sentiment_economy/infer")
        with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=ANSWER_DEADLINE_SECONDS) as answer:
            outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
        assert outputs["LABEL"] == ["positive"]

    with stack.client() as client:
        calls = [lambda: infer_grpc(client)] * GRPC_CALLERS + [infer_http] * HTTP_CALLERS
        with ClientThreads(calls, PAUSE_SECONDS) as callers:
            yield callers
    answered, failed, longest = len(callers.seconds), len(callers.failures), max(callers.seconds, default=0.0)
    print(f"compose-test: while {what}: {answered} answered, {failed} failed, longest {longest:.2f} s", flush=True)
    assert answered > 0
