"""Valid and invalid requests through a real Envoy to two real tritonservers."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import http.client
import json
import os
import random
import shutil
import struct
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from trireme.inference.text_request import text_tensor
from trireme.processes.ports import LOOPBACK, free_ports
from trireme.processes.server import ServerFlags, TritonServer
from trireme.serving.envoy.config_files import HTTP_CLUSTER
from trireme.serving.envoy.process import EnvoyProcess
from trireme.serving.envoy.proxy_config import ProxyConfig
from trireme_client import OperatorClient, SequenceStep, TriremeClient
from tritonclient.grpc import service_pb2

from tests.e2e.fake_replica import FakeReplica
from tests.e2e.serving import wait_until

FOLDER = Path(__file__).parent
MODELS = {"echo": FOLDER / "models" / "echo", "running_sum": FOLDER / "client_models" / "running_sum"}
DEADLINE_SECONDS = 20.0
ECHO = "/v2/models/echo/infer"
GENERATE = "/v2/models/echo/generate"
HEADER_LENGTH = "Inference-Header-Content-Length"
MOST_BYTES = 4 * 1024**2


@dataclass
class Stack:
    """Two servers behind an Envoy."""

    servers: list[TritonServer]
    envoy: EnvoyProcess

    def post(self, body: bytes | Iterator[bytes], headers: Mapping[str, str] | None = None, path: str = ECHO) -> Any:
        """Status and body."""
        connection = http.client.HTTPConnection(LOOPBACK, self.envoy.proxy.http_port, timeout=DEADLINE_SECONDS)
        with contextlib.closing(connection):
            connection.request("POST", path, body=body, headers=dict(headers or {}))
            answered = connection.getresponse()
            return answered.status, answered.read()

    def assert_healthy(self) -> None:
        """Both servers are live, and a valid request succeeds."""
        assert all(server.is_alive() for server in self.servers)
        assert texts_in(self.post(of(good()))) == ["a fine day"]

    def script_errors(self) -> list[str]:
        log = (self.envoy.directory / "envoy.log").read_text()
        return [line for line in log.splitlines() if "[lua]" in line]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("requests")
    with contextlib.ExitStack() as running:
        servers, endpoints = [], []
        for name in ("r0", "r1"):
            for model, source in MODELS.items():
                shutil.copytree(source, folder / name / model)
            servers.append(running.enter_context(TritonServer.start(ServerFlags(folder / name))))
            # Its agent reports ready.
            fake = FakeReplica(name)
            running.callback(fake.close)
            ports = [int(address.split(":")[1]) for address in (servers[-1].grpc_address, servers[-1].http_address)]
            endpoints.append(dataclasses.replace(fake.endpoint, grpc_port=ports[0], http_port=ports[1]))
        envoy = EnvoyProcess.start(folder / "envoy", ProxyConfig(*free_ports(3)), endpoints)
        running.callback(envoy.stop)
        wait_until(lambda: envoy.healthy(HTTP_CLUSTER) == {"r0": True, "r1": True}, "both were ready")
        made = Stack(servers, envoy)
        yield made
        assert made.script_errors() == []


def tensor(**change: Any) -> dict[str, Any]:
    return {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["a fine day"], **change}


def good(**change: Any) -> dict[str, Any]:
    return {"inputs": [tensor()], **change}


def without(name: str) -> dict[str, Any]:
    return {"inputs": [{key: value for key, value in tensor().items() if key != name}]}


def of(document: Any) -> bytes:
    return json.dumps(document).encode()


def with_data(text: str) -> bytes:
    return of(good()).replace(b'["a fine day"]', text.encode())


def binary(raw: bytes, size: Any = None, length: Any = None) -> tuple[bytes, dict[str, str]]:
    """An inference request with the text as binary data after the JSON."""
    parameters = {"binary_data_size": len(raw) if size is None else size}
    head = of({"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "parameters": parameters}]})
    return head + raw, {HEADER_LENGTH: str(len(head) if length is None else length)}


def texts_in(answered: tuple[int, bytes]) -> list[str]:
    assert answered[0] == 200, answered
    return list(json.loads(answered[1])["outputs"][0]["data"])


ABC = struct.pack("<I", 3) + b"abc"
# By name: the body, or body and headers; and a part of the expected error.
WRONG: dict[str, tuple[Any, str]] = {
    "not JSON": (b"hello", "JSON"),
    "nothing": (b"", "body: it is empty"),
    "a list": ([], "inputs"),
    "cut off": (of(good())[:-3], "JSON"),
    "more behind it": (of(good()) + b"}}", "JSON"),
    "UTF-16": (json.dumps(good()).encode("utf-16"), "JSON"),
    "ISO-8859-1": (with_data('["\xe9"]').replace(b"\xc3\xa9", b"\xe9"), "not UTF-8"),
    "ISO-8859-1, as it says": ((with_data('["\xe9"]'), {"content-type": "text/plain; charset=ISO-8859-1"}), "charset"),
    "an overlong character": (with_data('["@"]').replace(b"@", b"\xc1\x81"), "not UTF-8"),
    "half a surrogate pair, encoded": (with_data('["@"]').replace(b"@", b"\xed\xa0\x80"), "not UTF-8"),
    "half a surrogate pair, escaped": (with_data('["\\ud800"]'), "surrogate"),
    "an unknown escape": (with_data('["\\q"]'), "escape"),
    "a number that no double holds": (with_data("[1e999]"), "Number"),
    "nested 200,000 deep": (b'{"inputs":' + b"[" * 200_000 + b"]", "nested deeper than 64"),
    "objects nested 50,000 deep": (b'{"a":' * 50_000, "nested deeper than 64"),
    "nested 65 deep": (b"[" * 65 + b"]" * 65, "nested deeper than 64"),
    "inputs is an object": ({"inputs": {}}, "inputs"),
    "inputs is null": ({"inputs": None}, "inputs"),
    "no inputs": ({}, "inputs"),
    "the input is a number": ({"inputs": [5]}, "Input"),
    "no shape": (without("shape"), "shape"),
    "no datatype": (without("datatype"), "datatype"),
    "no name": (without("name"), "name"),
    "no data": (without("data"), "data"),
    "shape is a text": ({"inputs": [tensor(shape="-1")]}, "shape"),
    "shape has -1": ({"inputs": [tensor(shape=[-1, 1])]}, "shape"),
    "shape has a fraction": ({"inputs": [tensor(shape=[1, 1.5])]}, "shape"),
    "shape has 2**63-1": ({"inputs": [tensor(shape=[1, 2**63 - 1])]}, "shape"),
    "shape has 2**64": ({"inputs": [tensor(shape=[2**64, 1])]}, "shape"),
    "shape overflows to 0": ({"inputs": [tensor(shape=[2**32, 2**32], data=[])]}, "shape"),
    "shape is larger than the data": ({"inputs": [tensor(shape=[1, 5])]}, "shape"),
    "shape of 40 dimensions": ({"inputs": [tensor(shape=[1] * 40)]}, "shape"),
    "datatype STRING": ({"inputs": [tensor(datatype="STRING")]}, "datatype"),
    "datatype is a number": ({"inputs": [tensor(datatype=5)]}, "datatype"),
    "name is a number": ({"inputs": [tensor(name=5)]}, "name"),
    "data is a text": ({"inputs": [tensor(data="a")]}, "data"),
    "data is an object with b64": ({"inputs": [tensor(data=[{"b64": "aGk="}])]}, "bytes"),
    "a number for a text": ({"inputs": [tensor(data=[7])]}, "bytes"),
    "null for a text": ({"inputs": [tensor(data=[None])]}, "bytes"),
    "two texts for one": ({"inputs": [tensor(data=["a", "b"])]}, "TEXT"),
    "the input twice": ({"inputs": [tensor(), tensor()]}, "TEXT"),
    "an unknown input": ({"inputs": [tensor(), tensor(name="WHAT")]}, "WHAT"),
    "an unknown output": (good(outputs=[{"name": "WHAT"}]), "WHAT"),
    "outputs is an object": (good(outputs={}), "outputs"),
    "a classification of a text": (good(outputs=[{"name": "ANSWER", "parameters": {"classification": "3"}}]), "class"),
    "id is a number": (good(id=5), "id"),
    "parameters is a list": (good(parameters=[1]), "params"),
    "a parameter is an object": (good(parameters={"a": {"b": 1}}), "parameter 'a'"),
    "timeout is negative": (good(parameters={"timeout": -1}), "timeout"),
    "timeout is a text": (good(parameters={"timeout": "5"}), "timeout"),
    "priority is a text": (good(parameters={"priority": "high"}), "priority"),
    "sequence_id is negative": (good(parameters={"sequence_id": -4}), "sequence_id"),
    "sequence_start is a number": (good(parameters={"sequence_id": 5, "sequence_start": 1}), "sequence_start"),
    "header length beyond the body": (binary(ABC, length=10**6), HEADER_LENGTH),
    "header length beyond all numbers": (binary(ABC, length="9" * 40), HEADER_LENGTH),
    "header length is negative": (binary(ABC, length=-1), HEADER_LENGTH),
    "header length is a word": (binary(ABC, length="all"), HEADER_LENGTH),
    "header length is nothing": (binary(ABC, length=""), HEADER_LENGTH),
    "header length is too small": (binary(ABC, length=1), "JSON"),
    "binary size beyond the body": (binary(ABC, size=700), "TEXT"),
    "binary size below the body": (binary(ABC + b"xyz", size=7), "additional"),
    "binary size is negative": (binary(ABC, size=-7), "binary_data_size"),
    "binary size without a header length": (
        without("data") | {"inputs": [tensor(parameters={"binary_data_size": 9})]},
        "data",
    ),
    "a string longer than its bytes": (binary(struct.pack("<I", 2**32 - 1) + b"abc"), "TEXT"),
    "a picture without a length before it": (binary(b"\xff\xd8\xff\xe0 a JPEG "), "TEXT"),
    "two strings for one": (binary(b"\1\0\0\0a\1\0\0\0b"), "TEXT"),
    "gzip": ((gzip.compress(of(good())), {"Content-Encoding": "gzip"}), "Content-Encoding"),
    "invalid gzip": ((of(good()), {"Content-Encoding": "gzip"}), "Content-Encoding"),
    "deflate": ((zlib.compress(of(good())), {"Content-Encoding": "deflate"}), "Content-Encoding"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_invalid_request_is_a_4xx_that_names_the_problem(stack: Stack, name: str) -> None:
    wrong, word = WRONG[name]
    body, headers = wrong if isinstance(wrong, tuple) else (wrong, {})
    status, answer = stack.post(body if isinstance(body, bytes) else of(body), headers)
    assert status == (415 if word == "Content-Encoding" else 400), answer
    assert word in json.loads(answer)["error"]
    stack.assert_healthy()


def test_a_body_that_is_too_large_is_rejected(stack: Stack) -> None:
    status, answer = stack.post(of(good()) + b" " * MOST_BYTES)
    assert status == 413
    assert json.loads(answer)["error"]
    stack.assert_healthy()


def test_every_valid_form_of_a_request_succeeds(stack: Stack) -> None:
    in_pieces = of({"inputs": [tensor(data=["w" * 600_000])]})
    forms: dict[str, tuple[Any, Mapping[str, str], str]] = {
        "with id, parameters and outputs": (
            of(good(id="7", parameters={"timeout": 10**7, "priority": 0, "note": "x"}, outputs=[{"name": "ANSWER"}])),
            {},
            "a fine day",
        ),
        "nested data": (of({"inputs": [tensor(data=[["a"]])]}), {}, "a"),
        "any character": (
            json.dumps({"inputs": [tensor(data=["né😀߿ࠀ￿\x7f\0"])]}, ensure_ascii=False).encode(),
            {},
            "né😀߿ࠀ￿\x7f\0",
        ),
        "escapes": (with_data('["\\u00e9\\ud83d\\ude00\\"\\\\[{"]'), {}, 'é😀"\\[{'),
        "brackets in a text": (of({"inputs": [tensor(data=["[{" * 100])]}), {}, "[{" * 100),
        "a byte order mark": (b"\xef\xbb\xbf" + of(good()), {}, "a fine day"),
        "space around it": (b"\r\n " + of(good()) + b"\n", {}, "a fine day"),
        "as a form of HTML, as curl -d says": (
            of(good()),
            {"content-type": "application/x-www-form-urlencoded"},
            "a fine day",
        ),
        "ASCII that says ISO-8859-1": (of(good()), {"content-type": "text/plain; charset=ISO-8859-1"}, "a fine day"),
        "UTF-8 as it says": (of(good()), {"content-type": 'application/json; charset="UTF-8"'}, "a fine day"),
        "identity": (of(good()), {"Content-Encoding": "identity"}, "a fine day"),
        "binary": (*binary(ABC), "abc"),
        "4 MiB": (of({"inputs": [tensor(data=["x" * (MOST_BYTES - 200)])]}), {}, "x" * (MOST_BYTES - 200)),
        "chunks of one byte": ((in_pieces[at : at + 1] for at in range(len(in_pieces))), {}, "w" * 600_000),
    }
    for name, (body, headers, text) in forms.items():
        assert texts_in(stack.post(body, headers)) == [text], name
    status, answer = stack.post(b"the whole body", {HEADER_LENGTH: "0"})
    assert status == 200
    assert answer.endswith(b"the whole body")
    status, answer = stack.post(of({"TEXT": "a fine day"}), path=GENERATE)
    assert (status, json.loads(answer)["ANSWER"]) == (200, "a fine day")


@pytest.mark.parametrize(
    "wrong", [b"[" * 100_000, b'{"TEXT":', b'{"TEXT": "\xff"}', b'{"TEXT": {"a": 1}}', b'{"WHAT": "x"}']
)
def test_an_invalid_generate_request_is_a_4xx(stack: Stack, wrong: bytes) -> None:
    status, answer = stack.post(wrong, path=GENERATE)
    assert status == 400, answer
    assert json.loads(answer)["error"]
    stack.assert_healthy()


def test_an_invalid_grpc_request_affects_no_other_request(stack: Stack) -> None:
    text = service_pb2.ModelInferRequest.InferInputTensor(name="TEXT", datatype="BYTES", shape=[1, 1])

    def request(shape: list[int], raw: bytes) -> bytes:
        changed = service_pb2.ModelInferRequest.InferInputTensor(name="TEXT", datatype="BYTES", shape=shape)
        return service_pb2.ModelInferRequest(
            model_name="echo", inputs=[changed], raw_input_contents=[raw]
        ).SerializeToString()

    wrong = {
        "no message": b"\xff" * 40,
        "cut off": request([1, 1], ABC)[:-2],
        "shape overflows": request([2**32, 2**32], ABC),
        "shape is negative": request([-1, 1], ABC),
        "raw is too short": request([1, 1], ABC[:-1]),
        "raw is too long": request([1, 1], ABC + b"x"),
        "no raw": service_pb2.ModelInferRequest(model_name="echo", inputs=[text]).SerializeToString(),
    }
    with grpc.insecure_channel(stack.envoy.proxy.grpc_address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for name, body in wrong.items():
            error = infer.future(body, timeout=DEADLINE_SECONDS).exception()
            assert isinstance(error, grpc.RpcError), name
            assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL), name
    stack.assert_healthy()


@pytest.mark.parametrize("protocol", ["grpc", "http"])
@pytest.mark.parametrize("named", [False, True], ids=["numbers", "names"])
def test_sequences_keep_their_state_under_load(stack: Stack, protocol: str, named: bool) -> None:
    proxy = stack.envoy.proxy
    address = proxy.grpc_address if protocol == "grpc" else f"http://{proxy.http_address}"

    def add_up(number: int) -> list[int]:
        of_sequence: int | str = f"né {protocol} {number}" if named else number
        steps = [SequenceStep(of_sequence, start=step == 0, end=step == 9) for step in range(10)]
        return [int(client.infer("running_sum", {"X": [[1]]}, sequence=step)["SUM"][0, 0]) for step in steps]

    with TriremeClient(address, deadline_ms=20_000) as client, ThreadPoolExecutor(8) as threads:
        assert list(threads.map(add_up, range(1, 25))) == [list(range(1, 11))] * 24


def test_a_sequence_id_in_json_pins_the_replica(stack: Stack) -> None:
    for sequence in (*range(101, 109), *(f"name {number}" for number in range(8))):
        sums = []
        for step in range(5):
            control = {"sequence_id": sequence, "sequence_start": step == 0, "sequence_end": step == 4}
            body = {"inputs": [{"name": "X", "datatype": "INT32", "shape": [1, 1], "data": [1]}], "parameters": control}
            status, answer = stack.post(of(body), path="/v2/models/running_sum/infer")
            assert status == 200, answer
            sums.append(json.loads(answer)["outputs"][0]["data"][0])
        assert sums == [1, 2, 3, 4, 5]


def test_a_model_missing_on_one_replica_is_served_by_the_other(stack: Stack) -> None:
    with (
        OperatorClient(stack.servers[0].grpc_address) as lacking,
        OperatorClient(f"{LOOPBACK}:{stack.envoy.proxy.grpc_port}") as caller,
    ):
        lacking.unload("echo", DEADLINE_SECONDS)
        try:
            for _ in range(20):
                answer = caller.infer("echo", {"TEXT": text_tensor(b"a fine day")}, DEADLINE_SECONDS)
                assert answer.outputs["ANSWER"].tolist() == [[b"a fine day"]]
                assert texts_in(stack.post(of(good()))) == ["a fine day"]
        finally:
            lacking.load("echo", DEADLINE_SECONDS)
    assert stack.post(of(good()), path="/v2/models/nowhere/infer")[0] == 404
    stack.assert_healthy()


@pytest.mark.slow
def test_two_thousand_mutated_bodies_get_no_5xx_and_affect_no_other_request(stack: Stack) -> None:
    seed = fuzz_seed()
    dice = random.Random(seed)
    for number in range(2000):
        body, headers, path = mutated(dice)
        status, answer = stack.post(iter_bytes(body) if number % 50 == 0 else body, headers, path)
        case = f"seed {seed}, number {number}: {path} {headers} {body[:300]!r}: {status} {answer[:300]!r}"
        assert status == 200 or 400 <= status < 500, case
        if status == 200 and path == ECHO and not headers:
            assert texts_in((status, answer)) == flat(json.loads(body)["inputs"][0]["data"]), case
        elif status != 200:
            assert json.loads(answer)["error"], case
        stack.assert_healthy()


@pytest.mark.slow
def test_a_thousand_mutated_grpc_messages_affect_no_other_request(stack: Stack) -> None:
    seed = fuzz_seed()
    dice = random.Random(seed)
    with grpc.insecure_channel(stack.envoy.proxy.grpc_address) as channel:
        infer = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        for number in range(1000):
            message = mutated_message(dice)
            error = infer.future(message, timeout=DEADLINE_SECONDS).exception()
            code = error.code() if isinstance(error, grpc.RpcError) else grpc.StatusCode.OK
            assert code in GRPC_CODES, f"seed {seed}, number {number}: {message!r}: {error}"
            stack.assert_healthy()


def fuzz_seed() -> int:
    seed = int(os.environ.get("TRIREME_FUZZ_SEED", random.randrange(2**32)))
    print(f"TRIREME_FUZZ_SEED={seed}")
    return seed


# Triton responds with INTERNAL to invalid protobuf messages and to some invalid tensors.
GRPC_CODES = (
    grpc.StatusCode.OK,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.UNIMPLEMENTED,
)


def mutated_message(dice: random.Random) -> bytes:
    """A gRPC inference request with an unusual shape, datatype or tensor, or with changed, missing or added bytes."""
    text = service_pb2.ModelInferRequest.InferInputTensor(
        name=dice.choice(["TEXT", "TEXT", "TEXT", "", "OTHER"]),
        datatype=dice.choice(["BYTES", "BYTES", "BYTES", "INT32", "FP16", ""]),
        shape=dice.choice([[1, 1], [1, 1], [], [0], [2, 1], [-1, 1], [2**31, 1], [2**62, 2], [1] * 40]),
    )
    request = service_pb2.ModelInferRequest(
        model_name="echo",
        model_version=dice.choice(["", "", "1", "9", "-1", "x" * 100]),
        id=dice.choice(["", "é" * 10]),
        inputs=[text] * dice.choice([1, 1, 1, 0, 2]),
        raw_input_contents=[dice.choice([ABC, ABC, ABC[:-1], ABC + b"x", b"", b"\xff" * 4])]
        * dice.choice([1, 1, 0, 2]),
    )
    for name in ("sequence_id", "timeout", "priority", "triton_x"):
        if dice.random() < 0.1:
            request.parameters[name].int64_param = dice.choice([-1, 0, 2**62])
    body = bytearray(request.SerializeToString())
    for _ in range(dice.choice([0, 0, 1, 3])):
        at = dice.randrange(len(body))
        body[at : at + dice.choice([0, 1, 4])] = dice.choice([b"", bytes([dice.randrange(256)]), b"\xff" * 9])
        body = body or bytearray(b"\0")
    return bytes(body)


def iter_bytes(body: bytes) -> Iterator[bytes]:
    return (body[at : at + 1] for at in range(len(body)))


def flat(data: Any) -> list[str]:
    return [text for item in data for text in flat(item)] if isinstance(data, list) else [data]


ODD = (None, True, -1, 0, 1.5, 2**63, 2**64, 1e308, "", "x", "\0", [], [[]], {}, {"a": 1}, [None], ["a", ["b"]])


def mutated(dice: random.Random) -> tuple[bytes, dict[str, str], str]:
    """A request with errors in its JSON, bytes or headers, and sometimes without any."""
    path = dice.choice([ECHO, ECHO, ECHO, GENERATE])
    document: Any = (
        {"TEXT": "né a fine day"}
        if path == GENERATE
        else good(
            id="1", parameters={"timeout": 10**7, "sequence_id": 0}, outputs=[{"name": "ANSWER", "parameters": {}}]
        )
    )
    headers: dict[str, str] = {}
    if dice.random() < 0.5:
        places = list(places_in(document))
        for holder, key in dice.sample(places, min(len(places), dice.choice([1, 1, 2]))):
            if dice.random() < 0.3 and isinstance(holder, dict):
                holder.pop(key, None)
            else:
                holder[key] = dice.choice(ODD)
    body = json.dumps(document, ensure_ascii=dice.random() < 0.5).encode()
    if dice.random() < 0.2 and path == ECHO:
        size, length = (
            dice.choice([None, 0, 6, 8, -1, "7", 2**64]),
            dice.choice([None, None, 0, 1, -1, "x", "1e2", 10**9]),
        )
        body, headers = binary(dice.choice([ABC, b"", b"\xff\xff\xff\xff", ABC + ABC]), size, length)
    for _ in range(dice.choice([0, 0, 1, 3])):
        at = dice.randrange(len(body) + 1)
        junk = dice.choice(
            [b"", b"[" * dice.choice([1, 70, 10**5]), b"{", b'"', b"\\", bytes([dice.randrange(256)]), b"\0", b","]
        )
        body = dice.choice([body[:at], body[:at] + junk + body[at:], body[:at] + junk + body[at + len(junk) :]])
    if dice.random() < 0.1:
        headers["Content-Encoding"] = dice.choice(["gzip", "deflate", "br", "identity", "GZIP"])
        body = gzip.compress(body) if dice.random() < 0.5 else body
    return body, headers, path


def places_in(document: Any) -> Iterator[tuple[Any, Any]]:
    """The place of each value: its container, and its key or index."""
    keys = document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    for key, value in list(keys):
        yield document, key
        yield from places_in(value)
