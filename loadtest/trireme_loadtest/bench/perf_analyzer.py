"""``trireme bench perf_analyzer``: this project's load generator against NVIDIA's, on one server."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Mapping, Sequence

import click
from trireme.processes.server import ServerFlags, TritonServer
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings

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
from trireme_loadtest.bench.harness.text_workload import ModelFiles, review_sentences
from trireme_loadtest.bench.peers.perf_analyzer_binary import PerfAnalyzer
from trireme_loadtest.generate.closed_loop import measure_closed_loop
from trireme_loadtest.generate.requests import grpc_body, text_tensors
from trireme_loadtest.generate.targets import GrpcTarget

OURS, THEIRS = "trireme", "perf_analyzer"
RATE = "requests_per_second"
METRICS = {RATE: "requests/s", "p50_ms": "p50 ms", "p95_ms": "p95 ms", "p99_ms": "p99 ms"}
DEADLINE_SECONDS = 30.0
COLUMNS = (
    *(Column(heading, metric, spread=True) for metric, heading in METRICS.items()),
    Column("rate, perf_analyzer = 1", "share_of_rate", digits=3, spread=True),
    Column("p50, perf_analyzer = 1", "share_of_p50", digits=3, spread=True),
)


@click.command()
@click.option("--model", default="embedding_economy", show_default=True, help="Text model to load.")
@click.option("--concurrency", "levels", multiple=True, type=click.IntRange(1, 256), default=(1, 8), show_default=True)
@run_options
def perf_analyzer(options: RunOptions, model: str, levels: tuple[int, ...]) -> None:
    """Compare this project's load generator with perf_analyzer on the same server and sentences."""
    settings = Settings.from_environment()
    analyzer = PerfAnalyzer.fetch(settings)
    files = ModelFiles.of_ensemble(ModelRepository(settings.repository_dir), model)
    sentences = review_sentences(settings.sources_dir, files.tokenizer)
    machine = MachineFacts.read()
    with TritonServer.start(ServerFlags(settings.repository_dir, load_models=(model,))) as server:
        contenders = []
        for level in levels:
            ours = functools.partial(_measure, server, model, sentences, level, options.seconds)
            theirs = functools.partial(
                analyzer.measure, model, server.grpc_address, sentences, concurrency=level, seconds=options.seconds
            )
            contenders += [
                Contender(OURS, f"concurrency {level}", ours),
                Contender(THEIRS, f"concurrency {level}", theirs),
            ]
        results = interleave(contenders, options.repetitions)
    found = {(result.name, result.case): result for result in results}
    shares = [
        result.with_ratio(RATE, to=found[THEIRS, result.case], name="share_of_rate").with_ratio(
            "p50_ms", to=found[THEIRS, result.case], name="share_of_p50"
        )
        for result in results
    ]
    notes = [agreement(found[OURS, f"concurrency {level}"], found[THEIRS, f"concurrency {level}"]) for level in levels]
    options.publish(
        Report(
            "perf_analyzer",
            COLUMNS,
            shares,
            machine,
            settings={**options.settings(), "model": model, "sentences": len(sentences)},
            notes=notes,
        )
    )


def agreement(ours: Measurement, theirs: Measurement) -> str:
    """One sentence: whether the ranges of both overlap, metric by metric."""
    apart = []
    for metric, heading in METRICS.items():
        own, other = ours.values[metric], theirs.values[metric]
        if min(own) > max(other) or min(other) > max(own):
            apart.append(f"{heading} {ours.median(metric) / theirs.median(metric) - 1:+.1%}")
    if apart:
        return f"At {ours.case} the repetitions of both do not overlap in {', '.join(apart)} (ours against theirs)."
    return f"At {ours.case} both agree within the noise of the repetitions, in rate and all percentiles."


def _measure(
    server: TritonServer, model: str, sentences: Sequence[str], concurrency: int, seconds: float
) -> Mapping[str, float]:
    run = asyncio.run(
        measure_closed_loop(
            GrpcTarget(server.grpc_address, DEADLINE_SECONDS),
            [grpc_body(model, text_tensors(sentence)) for sentence in sentences],
            concurrency=concurrency,
            seconds=seconds,
            server_pid=server.pid,
        )
    )
    return {RATE: run.rate, **run.percentiles_ms()}
