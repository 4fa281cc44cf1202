"""``trireme bench router``: the router's cost, and its gain if the load exceeds the best variant's capacity."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping, Sequence

import click
import numpy as np
from trireme.processes.ports import open_direct
from trireme.processes.server import ServerFlags, TritonServer
from trireme.repository.folders import ModelRepository
from trireme.repository.routes import find_route
from trireme.settings import Settings
from trireme_backends.routing.route import Tier

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
from trireme_loadtest.bench.harness.text_workload import SEED, ModelFiles, review_sentences
from trireme_loadtest.generate.closed_loop import measure_closed_loop
from trireme_loadtest.generate.requests import grpc_body, text_tensors
from trireme_loadtest.generate.schedule import Schedule, send_schedule
from trireme_loadtest.generate.targets import GrpcTarget, RequestSet

DIRECT, ROUTED = "direct", "router"
RATE = "requests_per_second"
DEADLINE_SECONDS = 30.0
SLA_MS = 100
# Relative to the direct call's rate at the highest concurrency: above the capacity of premium, below that of the
# cheaper variants.
OVERLOAD = 1.25
# The generator gives up on requests that wait longer.
OVERLOAD_DEADLINE_SECONDS = 10.0

NOTES = (
    "'direct' calls the premium variant, 'router' calls the route with tier=premium. Ratios are computed within each "
    "repetition.",
    f"'overload' rows: open loop, {OVERLOAD:g} times the rate that the direct call reached; latency counts from the "
    f"intended send time. The router's callers set max_latency_ms={SLA_MS}; 'moved %' is the share of requests that "
    "the router sent to a cheaper variant to meet it.",
)
COLUMNS = (
    Column("requests/s", RATE, digits=0, spread=True),
    Column("of direct", "rate_of_direct", digits=3, spread=True),
    Column("p50 ms", "p50_ms", digits=2),
    Column("p95 ms", "p95_ms"),
    Column("p99 ms", "p99_ms"),
    Column("p99 of direct", "p99_of_direct", digits=2),
    Column("server CPU-ms", "server_cpu_ms", digits=2),
    Column("moved %", "moved_percent"),
    Column("failed %", "failed_percent"),
    Column("other CPU %", "other_cpu_percent", digits=0),
)
_REASON = re.compile(r'trireme_router_requests_total\{.*?reason="(\w*)".*?\} (\S+)')


@click.command()
@click.option("--task", default="text_classification", show_default=True, help="Task of the route to load.")
@click.option("--concurrency", "levels", multiple=True, type=click.IntRange(1, 1024), default=(1, 8, 32))
@run_options
def router(options: RunOptions, task: str, levels: tuple[int, ...]) -> None:
    """Compare a route with direct calls of its premium variant, also under a load above the variant's capacity."""
    settings = Settings.from_environment()
    repository = ModelRepository(settings.repository_dir)
    found = find_route(repository, task)
    variants = found.route().variants
    premium = next(variant.name for variant in variants if variant.tier is Tier.PREMIUM)
    sentences = review_sentences(settings.sources_dir, ModelFiles.of_ensemble(repository, premium).tokenizer)
    machine = MachineFacts.read()
    flags = ServerFlags(repository.path, load_models=(*(variant.name for variant in variants), task))
    with TritonServer.start(flags) as server:
        bodies = {
            DIRECT: [grpc_body(premium, text_tensors(text)) for text in sentences],
            ROUTED: [grpc_body(task, text_tensors(text), {"tier": "premium"}) for text in sentences],
        }
        results = interleave(
            [_closed(server, name, bodies[name], level, options.seconds) for level in levels for name in bodies],
            options.repetitions,
        )
        reached = max(result.median(RATE) for result in results if result.name == DIRECT)
        bodies[ROUTED] = [
            grpc_body(task, text_tensors(text), {"tier": "premium", "max_latency_ms": SLA_MS}) for text in sentences
        ]
        overload = interleave(
            [_open(server, name, bodies[name], reached * OVERLOAD, options.seconds) for name in bodies],
            options.repetitions,
        )
    options.publish(
        Report(
            "router",
            COLUMNS,
            [*_with_ratios(results), *overload],
            machine,
            settings={**options.settings(), "task": task},
            notes=NOTES,
        )
    )


def _closed(server: TritonServer, name: str, bodies: Sequence[bytes], concurrency: int, seconds: float) -> Contender:
    def repeat() -> Mapping[str, float]:
        run = asyncio.run(
            measure_closed_loop(
                GrpcTarget(server.grpc_address, DEADLINE_SECONDS),
                bodies,
                concurrency=concurrency,
                seconds=seconds,
                server_pid=server.pid,
            )
        )
        return {
            RATE: run.rate,
            **run.percentiles_ms(),
            "server_cpu_ms": run.server_cpu_seconds / len(run.latencies_ms) * 1000,
            "other_cpu_percent": run.other_cpu_seconds / run.seconds * 100,
        }

    return Contender(name, f"concurrency {concurrency}", repeat)


def _open(server: TritonServer, name: str, bodies: Sequence[bytes], rate: float, seconds: float) -> Contender:
    """Poisson arrivals at ``rate`` per second."""

    def repeat() -> Mapping[str, float]:
        random = np.random.default_rng(SEED)
        times = np.cumsum(random.exponential(1 / rate, int(rate * seconds)))
        schedule = Schedule(times, np.zeros(len(times), np.int64), random.integers(0, len(bodies), len(times)))
        before = _responses_by_reason(server)
        samples = asyncio.run(
            send_schedule(
                [RequestSet(name, "grpc", server.grpc_address, bodies)],
                schedule,
                deadline_seconds=OVERLOAD_DEADLINE_SECONDS,
                when_ready=time.monotonic,
                on_progress=lambda _: None,
            )
        )
        latencies = (samples.ended - samples.intended) * 1000
        failed = sum(error != "" for error in samples.error)
        values = {
            RATE: rate,
            "p50_ms": float(np.percentile(latencies, 50)),
            "p95_ms": float(np.percentile(latencies, 95)),
            "p99_ms": float(np.percentile(latencies, 99)),
            "failed_percent": failed / len(times) * 100,
        }
        if name == ROUTED:
            after = _responses_by_reason(server)
            answered = {reason: after[reason] - before.get(reason, 0.0) for reason in after}
            at_tier = answered.get("requested_tier", 0.0)
            values["moved_percent"] = (1 - at_tier / sum(answered.values())) * 100
        return values

    return Contender(name, f"overload, {rate:.0f}/s", repeat)


def _responses_by_reason(server: TritonServer) -> dict[str, float]:
    """The router's responses so far, by reason."""
    # The router publishes its metrics every half second.
    time.sleep(1.0)
    with open_direct(f"http://{server.metrics_address}/metrics", 10.0) as response:
        found: dict[str, float] = {}
        for reason, count in _REASON.findall(response.read().decode()):
            found[reason] = found.get(reason, 0.0) + float(count)
    return found


def _with_ratios(results: Sequence[Measurement]) -> list[Measurement]:
    direct = {result.case: result for result in results if result.name == DIRECT}
    return [
        result.with_ratio(RATE, to=direct[result.case], name="rate_of_direct").with_ratio(
            "p99_ms", to=direct[result.case], name="p99_of_direct"
        )
        if result.name == ROUTED
        else result
        for result in results
    ]
