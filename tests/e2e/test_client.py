"""The client against the real server: round trips, deadlines, and cleanup."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import ml_dtypes
import numpy as np
import psutil
import pytest
import tritonclient.grpc as triton_grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from trireme.processes.server import ServerFlags
from trireme_client import (
    AsyncTriremeClient,
    ClientError,
    ClosedError,
    DeadlineError,
    InvalidInputError,
    InvalidRequestError,
    ModelNotFoundError,
    OperatorClient,
    OverloadedError,
    QueueTimeoutError,
    SequenceStep,
    ServerFaultError,
    TriremeClient,
)
from trireme_client.tensors import DTYPES

from tests.deadlines import scaled
from tests.servers import throw_away_server

MODELS = Path(__file__).with_name("client_models")
ADMIN_KEY = "a-key-for-tests"
TEXTS = ["", "né😀", "ab\0", "\0", "x" * 70000]
HANG_GUARD_SECONDS = scaled(30.0)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server with the models of ``client_models``; a copy, since the server writes into the folders it serves."""
    repository = tmp_path_factory.mktemp("client") / "models"
    shutil.copytree(MODELS, repository)
    with throw_away_server(ServerFlags(repository, admin_key=ADMIN_KEY)) as running:
        yield running


@pytest.fixture(params=["grpc", "http"])
def client(server, request):
    address = server.grpc_address if request.param == "grpc" else f"http://{server.http_address}"
    with TriremeClient(address, admin_key=ADMIN_KEY, deadline_ms=20_000) as made:
        yield made


@pytest.fixture(scope="module")
def grpc_client(server):
    with TriremeClient(server.grpc_address, admin_key=ADMIN_KEY, deadline_ms=20_000) as made:
        yield made


def test_texts_are_returned_byte_by_byte(client):
    expected = [text.encode() for text in TEXTS]
    assert client.infer("identity", {"BYTES": [TEXTS]}, ["BYTES_OUT"])["BYTES_OUT"][0].tolist() == expected
    with client.shared_memory(1 << 20) as region:
        result = client.infer("identity", {"BYTES": region.put([TEXTS])}, {"BYTES_OUT": region.reserve_bytes(1 << 18)})
        assert result["BYTES_OUT"][0].tolist() == expected


def test_five_thousand_texts_are_returned_in_order(client):
    texts = [f"text {number}" for number in range(5000)]
    result = client.infer("identity_rows", {"TEXT": texts}, ["TEXT_OUT"])
    assert [text.decode() for text in result["TEXT_OUT"][:, 0]] == texts
    assert result.timings.requests == 625


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(st.data(), st.sampled_from(sorted(DTYPES)), hnp.array_shapes(min_dims=2, max_dims=2, min_side=0, max_side=5))
def test_every_datatype_and_shape_is_returned_unchanged(client, data, datatype, shape):
    if datatype == "BYTES":
        size = shape[0] * shape[1]
        array = np.array([*data.draw(st.lists(st.binary(max_size=9), min_size=size, max_size=size)), None], object)
        array = array[:-1].reshape(shape)
    elif datatype == "BF16":
        array = data.draw(hnp.arrays(np.uint16, shape)).view(ml_dtypes.bfloat16)
    else:
        array = data.draw(hnp.arrays(DTYPES[datatype], shape))
    output = f"{datatype}_OUT"
    back = client.infer("identity", {datatype: array}, [output])[output]
    assert back.dtype == array.dtype
    assert back.shape == array.shape
    assert back.tolist() == array.tolist() if datatype == "BYTES" else back.tobytes() == array.tobytes()


def test_zero_rows_of_a_batch_need_no_request(client):
    result = client.infer("identity_rows", {"TEXT": []}, ["TEXT_OUT"])
    assert result["TEXT_OUT"].shape == (0, 1)
    assert result.timings.attempts == 0


def test_bf16_is_exact(client):
    value = np.array([[0.01]], ml_dtypes.bfloat16) + np.array([[0.01]], ml_dtypes.bfloat16)
    back = client.infer("identity", {"BF16": value}, ["BF16_OUT"])["BF16_OUT"]
    assert float(back[0, 0]) == pytest.approx(0.0200195, abs=1e-7)


def test_lossless_casts_arrive_and_lossy_ones_are_rejected(client):
    ids = client.infer("identity", {"INT64": np.array([[1, 2]], np.int32)}, ["INT64_OUT"])["INT64_OUT"]
    assert ids.tolist() == [[1, 2]]
    columns = np.arange(6, dtype=np.float32).reshape(2, 3).T
    assert client.infer("identity", {"FP32": columns}, ["FP32_OUT"])["FP32_OUT"].tolist() == columns.tolist()
    with pytest.raises(InvalidInputError, match="tensor 'FP32': expected FP32, got an array of float64"):
        client.infer("identity", {"FP32": np.ones((1, 1))})
    with pytest.raises(InvalidInputError, match="tensor 'BOOL': expected BOOL, got an array of uint8"):
        client.infer("identity", {"BOOL": np.ones((1, 1), np.uint8)})


def test_large_tensors_are_sent_and_too_large_ones_are_not(client):
    sent = np.zeros((1300, 1000), np.float32)
    assert client.infer("identity", {"FP32": sent}, ["FP32_OUT"])["FP32_OUT"].nbytes == 5_200_000
    big = np.broadcast_to(np.float64(0), (5000, 1000))
    assert client.infer("identity", {"FP64": big}, ["FP64_OUT"])["FP64_OUT"].nbytes == 40_000_000
    with pytest.raises(InvalidInputError, match="over the limit of 2,147,483,647 bytes"):
        client.infer("identity", {"UINT8": np.broadcast_to(np.uint8(0), (2**31 + 1, 1))})


def test_large_responses_pass_on_asyncio_and_streams(server, grpc_client):
    async def main():
        async with AsyncTriremeClient(server.grpc_address) as client:
            answer = await client.infer("identity", {"FP64": np.zeros((5000, 1000))}, ["FP64_OUT"])
            return answer["FP64_OUT"].nbytes

    assert asyncio.run(main()) == 40_000_000
    answers = grpc_client.stream("count_up", {"COUNT": [2], "EVERY_MS": [0]}, parameters={"padding": 40_000_000})
    assert [answer["PADDING"].nbytes for answer in answers] == [40_000_000] * 2


def test_the_deadline_applies_and_abandoned_requests_are_not_executed(client):
    before = int(client.infer("sleepy", {"SLEEP_MS": [0]})["EXECUTED"][0, 0])
    errors = []

    def call():
        with pytest.raises(DeadlineError) as caught:
            client.infer("sleepy", {"SLEEP_MS": [3000]}, deadline_ms=1000)
        errors.append(caught.value)

    threads = [threading.Thread(target=call) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_SECONDS)
    assert [error.attempts for error in errors] == [1] * 5
    assert all(error.sent for error in errors)
    after = int(client.infer("sleepy", {"SLEEP_MS": [0]})["EXECUTED"][0, 0])
    assert after - before - 1 <= 2


def test_a_full_and_a_slow_queue_are_distinguished(client):
    kinds = []

    def call():
        try:
            client.infer("sleepy_small_queue", {"SLEEP_MS": [1500]})
            kinds.append(None)
        except (OverloadedError, QueueTimeoutError) as error:
            kinds.append(type(error))

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG_GUARD_SECONDS)
    assert {None, OverloadedError, QueueTimeoutError} == set(kinds)


def test_parameters_and_an_optional_input_reach_every_step_of_an_ensemble(client):
    sent = {"lang": "de", "k": 7, "flag": True}
    given = client.infer("marked", {"TEXT": "x", "HINT": "h"}, parameters=sent)
    absent = client.infer("marked", {"TEXT": "x"}, parameters=sent)
    for result, hint in ((given, "h"), (absent, None)):
        first, last = (json.loads(result[name][0, 0]) for name in ("FIRST_SAW", "LAST_SAW"))
        for seen in (first, last):
            received = {key: value for key, value in seen["parameters"].items() if key in sent}
            assert received == sent
            assert type(received["flag"]) is bool
        assert first["hint"] == hint
    with pytest.raises(InvalidRequestError, match="'triton_x' is reserved"):
        client.infer("marked", {"TEXT": "x"}, parameters={"triton_x": 1})


def test_sequences_keep_their_state_apart(client):
    sums = [int(client.infer("running_sum", {"X": [x]}, sequence=SequenceStep(7, start=x == 3))["SUM"][0, 0])
            for x in (3, 4, 5)]  # fmt: skip
    other = client.infer("running_sum", {"X": [10]}, sequence=SequenceStep(8, start=True))
    assert sums == [3, 7, 12]
    assert int(other["SUM"][0, 0]) == 10


def test_an_unknown_model_or_version_is_reported_with_the_available_ones(client):
    with pytest.raises(ModelNotFoundError, match="model 'identty' is not ready; ready models: count_up, double,"):
        client.infer("identty", {})
    with pytest.raises(ModelNotFoundError, match="version 9"):
        client.infer("identity", {}, version=9)


def test_a_models_fault_is_a_server_fault_and_not_retried(client):
    with pytest.raises(ServerFaultError, match="scripted failure: boom") as caught:
        client.infer("faulty", {"HOW": ["boom"]})
    assert caught.value.attempts == 1


def test_the_admin_key_grants_repository_calls_and_is_not_sent_elsewhere(server, client):
    client.load_model("mark_last")
    client.unload_model("mark_last")
    with pytest.raises(ModelNotFoundError):
        client.infer("mark_last", {"TEXT": "x"})
    client.load_model("mark_last")
    assert client.is_ready("mark_last")
    with TriremeClient(server.grpc_address) as keyless, pytest.raises(ServerFaultError):
        keyless.load_model("mark_last")


def test_an_operator_gets_equal_results_over_grpc_and_http(server):
    answers = []
    for address in (server.grpc_address, f"http://{server.http_address}"):
        with OperatorClient(address, ADMIN_KEY) as operator, OperatorClient(address) as stranger:
            operator.unload("identity", 20.0)
            operator.load("identity", 20.0)
            value = np.array([[b"here"]], object)
            assert operator.infer("identity", {"BYTES": value}, 20.0)["BYTES_OUT"].tolist() == [[b"here"]]
            with pytest.raises(ClientError, match=r"restricted|admin-key"):
                stranger.index(5.0)
            (counted,) = operator.statistics(5.0, "identity")
            about = operator.server_version(5.0), operator.index(5.0), operator.model_config("identity", 5.0)
            answers.append((*about, counted.succeeded, counted.rows, operator.is_live(5.0), operator.is_ready(5.0)))
    assert answers[0] == answers[1]


def test_streams_end_fail_and_are_cancelled(grpc_client):
    numbers = [int(answer["NUMBER"][0]) for answer in grpc_client.stream("count_up", {"COUNT": [5], "EVERY_MS": [1]})]
    assert numbers == [0, 1, 2, 3, 4]
    failing = grpc_client.stream("count_up", {"COUNT": [-5], "EVERY_MS": [1]})
    assert int(next(failing)["NUMBER"][0]) == 0
    with pytest.raises(ServerFaultError, match="no number is below 0"):
        next(failing)
    (before,) = grpc_client.stream("count_up", {"COUNT": [1], "EVERY_MS": [0]})
    for answer in grpc_client.stream("count_up", {"COUNT": [100_000], "EVERY_MS": [5]}):
        if answer["NUMBER"][0] == 3:
            break
    # The model runs one stream at a time: it responds only because the previous one was cancelled.
    (after,) = grpc_client.stream("count_up", {"COUNT": [1], "EVERY_MS": [0]}, deadline_ms=10_000)
    assert int(after["EVER"][0]) - int(before["EVER"][0]) < 200


def test_a_stream_respects_its_deadline(grpc_client):
    with pytest.raises(DeadlineError):
        list(grpc_client.stream("count_up", {"COUNT": [100_000], "EVERY_MS": [5]}, deadline_ms=300))


def test_shared_memory_carries_tensors_and_is_removed_afterwards(server, client):
    names = _regions(server)
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    with client.shared_memory(1 << 16) as region:
        y = region.reserve((3, 4), np.float32)
        for _ in range(3):
            client.infer("identity", {"FP32": region.put(x)}, {"FP32_OUT": y})
        assert y.array.tolist() == x.tolist()
        assert _regions(server) == {*names, region.name}
        kept = y.array
        with pytest.raises(InvalidRequestError, match="do not fit into the region"):
            region.reserve((1 << 16,), np.float32)
        with pytest.raises(InvalidInputError, match="expected INT64, got shared memory of FP32"):
            client.infer("identity", {"INT64": y})
    assert _regions(server) == names
    assert kept.tolist() == x.tolist()
    assert not list(Path("/dev/shm").glob("trireme-client-*"))
    with pytest.raises(ClosedError, match="region is closed"):
        client.infer("identity", {"FP32": y})


def _regions(server):
    with triton_grpc.InferenceServerClient(server.grpc_address) as bare:
        headers = {"triton-grpc-protocol-admin-key": ADMIN_KEY}
        return set(bare.get_system_shared_memory_status(headers=headers).regions)


_CRASHING = """
import os, sys, numpy as np
from trireme_client import TriremeClient
client = TriremeClient(sys.argv[1], admin_key=sys.argv[2])
with client.shared_memory(4096) as region:
    client.infer("identity", {"FP32": region.put(np.zeros((2, 2), np.float32))}, ["FP32_OUT"])
    print(region.name, flush=True)
    os.kill(os.getpid(), 9)
"""


def test_a_client_that_crashes_leaves_no_shared_memory(server, grpc_client):
    command = [sys.executable, "-c", _CRASHING, server.grpc_address, ADMIN_KEY]
    crashed = subprocess.run(command, capture_output=True, text=True, timeout=HANG_GUARD_SECONDS, check=False)
    assert crashed.returncode == -signal.SIGKILL, crashed.stderr
    name = crashed.stdout.strip()
    end = time.monotonic() + HANG_GUARD_SECONDS
    while Path("/dev/shm", name).exists():
        assert time.monotonic() < end, f"{name} was left behind"
        time.sleep(0.05)
    assert name in _regions(server)
    with grpc_client.shared_memory(4096) as region:
        grpc_client.infer("identity", {"FP32": region.put(np.zeros((2, 2), np.float32))}, ["FP32_OUT"])
        assert _regions(server) == {region.name}


def test_ten_thousand_calls_keep_memory_threads_and_descriptors_constant(grpc_client):
    process = psutil.Process()
    x = {"FP32": np.zeros((1, 16), np.float32)}

    def calls(count):
        for _ in range(count):
            grpc_client.infer("identity", x, ["FP32_OUT"])
        return process.memory_info().rss, process.num_threads(), process.num_fds()

    memory, threads, files = calls(2000)
    memory_after, threads_after, files_after = calls(8000)
    assert memory_after - memory < 8 << 20
    assert threads_after <= threads + 2
    assert files_after <= files + 2


@pytest.mark.parametrize("scheme", ["grpc", "http"])
def test_three_hundred_clients_keep_memory_threads_and_descriptors_constant(server, scheme):
    process = psutil.Process()
    address = server.grpc_address if scheme == "grpc" else f"http://{server.http_address}"

    def cycles(count):
        for _ in range(count):
            with TriremeClient(address) as client:
                client.infer("identity", {"FP32": [[1.0]]}, ["FP32_OUT"])
        return process.memory_info().rss, process.num_threads(), process.num_fds()

    memory, threads, files = cycles(100)
    memory_after, threads_after, files_after = cycles(200)
    assert memory_after - memory < 16 << 20
    assert threads_after <= threads + 4
    assert files_after <= files + 4


def test_bare_tritonclient_calls_the_same_models(server):
    with triton_grpc.InferenceServerClient(server.grpc_address) as bare:
        tensor = triton_grpc.InferInput("BYTES", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[b"hello"]], object))
        assert bare.infer("identity", [tensor]).as_numpy("BYTES_OUT").tolist() == [[b"hello"]]


def test_compression_and_headers_pass(server):
    for address in (server.grpc_address, f"http://{server.http_address}"):
        for compression in ("gzip", "deflate"):
            with TriremeClient(address, compression=compression, headers={"x-team": "a"}) as client:
                sent = np.zeros((100, 1000), np.float32)
                assert client.infer("identity", {"FP32": sent}, ["FP32_OUT"])["FP32_OUT"].nbytes == sent.nbytes


def test_the_shared_memory_snippet_of_the_readme_runs(server, capsys):
    readme = Path(__file__).parents[2] / "client" / "README.md"
    (snippet,) = (
        found for found in re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL) if "shared_memory" in found
    )
    snippet = snippet.replace('"127.0.0.1:8001"', f'"{server.grpc_address}", admin_key="{ADMIN_KEY}"')
    exec(compile(snippet, readme.name, "exec"), {"TriremeClient": TriremeClient})
    assert "[[2. 4.]]" in capsys.readouterr().out
