"""Callers from outside, in an open loop: requests leave when they are due, whether or not earlier ones are answered."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp
import numpy as np
import tritonclient.grpc as triton_grpc
from tritonclient.grpc import aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.deadlines import scaled

_ASKED = ("gRPC echo", "gRPC echo_standard", "HTTP echo_worker")
# Those of a caller at most; what a proxy holds for them is then bounded too.
HTTP_CONNECTIONS = 32
_TEXT = b"hello my old friend"
_ANSWER = _TEXT.upper()


@dataclass(frozen=True, slots=True)
class Call:
    """What became of one request.

    Attributes:
        due: ``time.monotonic()`` when it was to leave.
        seconds: from then to the answer.
        failure: empty where the answer was right.
    """

    asked: str
    due: float
    seconds: float
    failure: str


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=HTTP_CONNECTIONS))


class Traffic:
    """Asks by gRPC a route and a variant, and by HTTP a model, in turn; no call is tried a second time by the caller.

    Example:
        >>> with Traffic("127.0.0.1:8001", "127.0.0.1:8000", per_second=40.0) as traffic:
        ...     break_something()
        >>> traffic.failures
        []
    """

    def __init__(
        self, grpc_address: str, http_address: str, per_second: float, deadline_seconds: float = scaled(20.0)
    ) -> None:
        self.calls: list[Call] = []
        self.per_second = per_second
        self._grpc_address = grpc_address
        self._http_address = http_address
        self._deadline_seconds = deadline_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="traffic")

    def __enter__(self) -> Traffic:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Ask no more, and wait for every answer."""
        self._stop.set()
        self._thread.join()

    @property
    def failures(self) -> list[str]:
        return [f"{call.asked} after {call.seconds:.2f} s: {call.failure}" for call in self.calls if call.failure]

    def answered_since(self, begin: float) -> bool:
        """Whether each kind of request that was due after ``begin`` has had a right answer."""
        return {call.asked for call in self.calls if call.due >= begin and not call.failure} == set(_ASKED)

    def summary(self) -> Mapping[str, object]:
        seconds = np.array([call.seconds for call in self.calls if not call.failure] or [np.nan])
        p50, p99, slowest = np.percentile(seconds, [50, 99, 100]) * 1000
        return {
            "requests": len(self.calls),
            "failures": len(self.failures),
            "failures_by_kind": dict(Counter(call.failure for call in self.calls if call.failure)),
            "p50_ms": round(float(p50), 1),
            "p99_ms": round(float(p99), 1),
            "slowest_ms": round(float(slowest), 1),
        }

    def measure_capacity(self, seconds: float, in_flight: int = 16) -> float:
        """Answers a second when so many callers each ask again at once; nothing of it is recorded."""

        async def ask_on(end: float, number: int) -> None:
            async with (
                triton_aio.InferenceServerClient(self._grpc_address) as grpc_client,
                _session() as http,
            ):
                while time.monotonic() < end:
                    await self._ask(grpc_client, http, number, time.monotonic())
                    number += 1

        async def ask_all() -> None:
            end = time.monotonic() + seconds
            await asyncio.gather(*(ask_on(end, number) for number in range(in_flight)))

        asyncio.run(ask_all())
        answered = sum(not call.failure for call in self.calls)
        self.calls.clear()
        return answered / seconds

    async def _run(self) -> None:
        running = set()
        async with triton_aio.InferenceServerClient(self._grpc_address) as grpc_client, _session() as http:
            begin, number = time.monotonic(), 0
            while not self._stop.is_set():
                due = begin + number / self.per_second
                await asyncio.sleep(max(due - time.monotonic(), 0.0))
                task = asyncio.create_task(self._ask(grpc_client, http, number, due))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            await asyncio.gather(*running)

    async def _ask(
        self, grpc_client: triton_aio.InferenceServerClient, http: aiohttp.ClientSession, number: int, due: float
    ) -> None:
        name = _ASKED[number % len(_ASKED)]
        protocol, model = name.split()
        failure = ""
        try:
            if protocol == "gRPC":
                answer = await self._ask_grpc(grpc_client, model)
            else:
                answer = await self._ask_http(http, model)
            if answer != _ANSWER:
                failure = f"answered {answer!r}"
        except (InferenceServerException, aiohttp.ClientError, asyncio.TimeoutError) as error:
            failure = str(error) or type(error).__name__
        self.calls.append(Call(name, due, time.monotonic() - due, failure))

    async def _ask_grpc(self, client: triton_aio.InferenceServerClient, model: str) -> bytes:
        text = triton_grpc.InferInput("TEXT", [1, 1], "BYTES")
        text.set_data_from_numpy(np.array([[_TEXT]], dtype=np.object_))
        result = await client.infer(model, [text], client_timeout=self._deadline_seconds)
        answer: bytes = result.as_numpy("ANSWER")[0, 0]
        return answer

    async def _ask_http(self, session: aiohttp.ClientSession, model: str) -> bytes:
        body = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": [_TEXT.decode()]}]}
        url = f"http://{self._http_address}/v2/models/{model}/infer"
        async with session.post(url, json=body, timeout=aiohttp.ClientTimeout(self._deadline_seconds)) as response:
            text = await response.text()
            if response.status != 200:
                raise aiohttp.ClientPayloadError(f"{response.status} {text}")
            document = await response.json()
            outputs = {output["name"]: output["data"] for output in document["outputs"]}
            return str(outputs["ANSWER"][0]).encode()
