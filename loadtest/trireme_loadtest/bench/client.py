"""``trireme bench client``: the client against bare tritonclient, and the gain of shared memory and hedging."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import tritonclient.grpc as triton_grpc
from trireme.processes.server import ServerFlags, TritonServer
from trireme_client import Endpoint, HedgePolicy, TriremeClient
from trireme_client.grpc_transport import channel_options

from trireme_loadtest.bench.harness import (
    Column,
    Contender,
    MachineFacts,
    Measurement,
    Report,
    RunOptions,
    interleave,
    run_options,
)
from trireme_loadtest.generate.traffic import ClientThreads

MODELS = Path(__file__).with_name("client_models")
BARE, OURS, HTTP = "tritonclient gRPC", "trireme gRPC", "trireme HTTP"
SHARED = "trireme shared memory"
PLAIN, HEDGED = "trireme, 2 % slow responses", "the same, hedged"
SMALL_FLOATS = 256
THREADS = (1, 8)
SIZES_KIB = (1, 16, 64, 256, 1024, 4096, 16384, 65536)
HEDGE_THREADS = 2
HEDGE_WARMUP_CALLS = 500
WARMUP_CALLS = 50
DEADLINE_MS = 60_000.0

NOTES = (
    "Calls: closed loop, 1 KB in and out of a Python model that returns its input; 'client CPU' is this process's, "
    "user and system. Ratios to bare tritonclient are computed within each repetition.",
    "Tensors: one call at a time; the input is written and the output read each time. Shared memory pays off where "
    "'of gRPC' is below 1.",
    f"Hedging: {HEDGE_THREADS} threads against a model that takes 5 ms, and 200 ms for every fiftieth response; "
    "'requests' is the number of requests sent to the server per call.",
)
COLUMNS = (
    Column("calls/s", "calls_per_second", digits=0, spread=True),
    Column("of bare", "rate_of_bare", digits=3, spread=True),
    Column("client CPU us", "client_cpu_us", digits=0),
    Column("CPU of bare", "cpu_of_bare", digits=2),
    Column("ms/call", "call_ms", digits=2, spread=True),
    Column("of gRPC", "time_of_grpc", digits=2),
    Column("p50 ms", "p50_ms", digits=1),
    Column("p99 ms", "p99_ms", digits=1, spread=True),
    Column("p99 of plain", "p99_of_plain", digits=2),
    Column("requests", "requests_per_call", digits=3),
)

Call = Callable[[], object]


@click.command()
@run_options
def client(options: RunOptions) -> None:
    """Compare the client with bare tritonclient, shared memory with gRPC, and hedging with no hedging."""
    machine = MachineFacts.read()
    with contextlib.ExitStack() as stack:
        repository = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-client-"))) / "models"
        # A copy: the server writes compiled files into the folder that it serves.
        shutil.copytree(MODELS, repository)
        server = stack.enter_context(TritonServer.start(ServerFlags(repository)))
        bare = stack.enter_context(
            contextlib.closing(
                triton_grpc.InferenceServerClient(
                    server.grpc_address, channel_args=channel_options(Endpoint(server.grpc_address))
                )
            )
        )
        ours, http, hedged = (
            stack.enter_context(TriremeClient(address, deadline_ms=DEADLINE_MS, hedge=hedge))
            for address, hedge in (
                (server.grpc_address, None),
                (f"http://{server.http_address}", None),
                (server.grpc_address, HedgePolicy()),
            )
        )
        calls = interleave(list(_call_contenders(bare, ours, http, options.seconds)), options.repetitions)
        tensors = interleave(list(_tensor_contenders(stack, ours, options.seconds)), options.repetitions)
        for _ in range(HEDGE_WARMUP_CALLS):
            hedged.infer("occasionally_slow", {"X": [1.0]})
        slow = interleave(
            [_slow_contender(PLAIN, ours, options.seconds), _slow_contender(HEDGED, hedged, options.seconds)],
            options.repetitions,
        )
    results = [*_against_bare(calls), *_against_grpc(tensors), slow[0]]
    results.append(slow[1].with_ratio("p99_ms", to=slow[0], name="p99_of_plain"))
    options.publish(Report("client", COLUMNS, results, machine, settings=options.settings(), notes=NOTES))


def _call_contenders(bare: Any, ours: TriremeClient, http: TriremeClient, seconds: float) -> Iterator[Contender]:
    x = np.zeros(SMALL_FLOATS, np.float32)

    def call_bare() -> object:
        tensor = triton_grpc.InferInput("X", [SMALL_FLOATS], "FP32")
        tensor.set_data_from_numpy(x)
        return bare.infer("passthrough", [tensor], client_timeout=DEADLINE_MS / 1000).as_numpy("Y")

    calls: Mapping[str, Call] = {
        BARE: call_bare,
        OURS: lambda: ours.infer("passthrough", {"X": x})["Y"],
        HTTP: lambda: http.infer("passthrough", {"X": x})["Y"],
    }
    for threads in THREADS:
        for name, call in calls.items():
            yield Contender(name, f"1 KB, {threads} thread{'s' * (threads > 1)}", _rate(call, threads, seconds))


def _rate(call: Call, threads: int, seconds: float) -> Callable[[], Mapping[str, float]]:
    def repeat() -> Mapping[str, float]:
        for _ in range(WARMUP_CALLS):
            call()
        began, cpu = time.perf_counter(), time.process_time()
        made = len(_call_from_threads(call, threads, seconds))
        return {
            "calls_per_second": made / (time.perf_counter() - began),
            "client_cpu_us": (time.process_time() - cpu) / made * 1e6,
        }

    return repeat


def _tensor_contenders(stack: contextlib.ExitStack, ours: TriremeClient, seconds: float) -> Iterator[Contender]:
    for kib in SIZES_KIB:
        x = np.zeros(kib * 256, np.float32)
        region = stack.enter_context(ours.shared_memory(2 * x.nbytes + 4096))
        sent, received = region.reserve(x.shape, np.float32), region.reserve(x.shape, np.float32)

        def call_grpc(x: Any = x) -> object:
            return ours.infer("passthrough", {"X": x})["Y"].sum()

        def call_shared(x: Any = x, sent: Any = sent, received: Any = received) -> object:
            sent.array[:] = x
            ours.infer("passthrough", {"X": sent}, outputs={"Y": received})
            return received.array.sum()

        case = f"{kib} KiB" if kib < 1024 else f"{kib // 1024} MiB"
        for name, call in ((OURS, call_grpc), (SHARED, call_shared)):
            yield Contender(name, case, _one_by_one(call, seconds / 4))


def _one_by_one(call: Call, seconds: float) -> Callable[[], Mapping[str, float]]:
    def repeat() -> Mapping[str, float]:
        call()
        return {"call_ms": float(np.median(_call_from_threads(call, 1, seconds))) * 1000}

    return repeat


def _slow_contender(name: str, client: TriremeClient, seconds: float) -> Contender:
    def repeat() -> Mapping[str, float]:
        attempts: list[int] = []
        latencies = _call_from_threads(
            lambda: attempts.append(client.infer("occasionally_slow", {"X": [1.0]}).timings.attempts),
            HEDGE_THREADS,
            2 * seconds,
        )
        return {
            "p99_ms": float(np.percentile(latencies, 99)) * 1000,
            "p50_ms": float(np.percentile(latencies, 50)) * 1000,
            "requests_per_call": sum(attempts) / len(attempts),
        }

    return Contender(name, f"{HEDGE_THREADS} threads", repeat)


def _call_from_threads(call: Call, threads: int, seconds: float) -> list[float]:
    """Call repeatedly from ``threads`` threads; returns the latencies in seconds."""
    with ClientThreads([call] * threads) as calls:
        time.sleep(seconds)
    if calls.failures:
        raise calls.failures[0]
    return calls.seconds


def _against_bare(results: Sequence[Measurement]) -> list[Measurement]:
    bare = {result.case: result for result in results if result.name == BARE}
    return [
        result.with_ratio("calls_per_second", to=bare[result.case], name="rate_of_bare").with_ratio(
            "client_cpu_us", to=bare[result.case], name="cpu_of_bare"
        )
        for result in results
    ]


def _against_grpc(results: Sequence[Measurement]) -> list[Measurement]:
    grpc = {result.case: result for result in results if result.name == OURS}
    return [result.with_ratio("call_ms", to=grpc[result.case], name="time_of_grpc") for result in results]
