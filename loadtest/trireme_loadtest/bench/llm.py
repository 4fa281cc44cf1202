"""``trireme bench llm``: language models: engines alone, through Triton and the gateway, and naive serving."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import click
from trireme.errors import ServerError, TriremeError
from trireme.files import write_atomic
from trireme.processes.server import ServerFlags, TritonServer
from trireme.repository.folders import ModelRepository
from trireme.repository.loading import plan_loading
from trireme.repository.model_config import load_model_config
from trireme.settings import Settings
from trireme_backends.generation.vllm_config import path_or_name
from trireme_client import AsyncTriremeClient, ClientError

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
from trireme_loadtest.bench.peers.gateway_process import completion_stream, gateway_process
from trireme_loadtest.bench.peers.generation_process import EngineProcess
from trireme_loadtest.generate.streams import Prompt, Stream, StreamRun, closed_streams, mixed_prompts, random_text
from trireme_loadtest.report.plots import Series, svg_file, xy_chart

NAIVE = "transformers, one by one"
BATCHED = "transformers, static batch"
ENGINES = {"openvino_genai": "openvino_genai", "vllm": "vLLM"}
RATE = "tokens_per_second"
DEADLINE_SECONDS = 120.0
_WARM_UP_SECONDS = 3.0
# The same lengths in every run.
LENGTHS_SEED = 11
PROMPTS = 256
# About 1.4 tokens per word.
PREFIX_WORDS = 1100
REPETITIVE = "The trireme sails to the harbour. The rowers sing a song. The captain counts the oars. " * 6

NOTES = (
    "Closed loop: each stream sends its next request when its last one is complete. Prompts have 8 to 160 words, "
    "outputs exactly 16, 32, 64 or 128 tokens, greedy. Streams that still run at the end are cancelled: their tokens "
    "count; a stream without a token counts with the time it had waited.",
    "The weights differ: openvino_genai uses the 4-bit weights of the GGUF file (Q4_1), vLLM the same unpacked to "
    "bfloat16, transformers as float32. Compare an engine with itself through Triton and the gateway; between engines "
    "the weights matter, too.",
    "'alone' is the engine in its own process, without a server and a load generator; in the other rows these share "
    "the cores with it.",
    "'new prefix', 'cached prefix': prompts whose first 1,500 tokens are new, or already cached. 'plain', 'prompt "
    "lookup': one stream on repetitive text. 'idle', 'after 16 cancelled': a short prompt on an idle engine, and "
    "directly after 16 running streams were cancelled.",
)
COLUMNS = (
    Column("tokens/s", RATE, digits=0, spread=True),
    Column("of alone", "of_alone", digits=2),
    Column("of naive", "of_naive"),
    Column("TTFT p50 ms", "ttft_p50_ms", digits=0),
    Column("TTFT p95 ms", "ttft_p95_ms", digits=0),
    Column("inter-token p50 ms", "inter_token_p50_ms"),
    Column("inter-token p95 ms", "inter_token_p95_ms"),
)

# Keeps ``streams`` of the prompts running for ``seconds``.
Work = Callable[..., StreamRun]


@dataclass(frozen=True, slots=True)
class ServedEngine:
    """A variant of the repository and its engine.

    Attributes:
        model: the ensemble that is pinned to the engine's version.
        weights: the file or folder that the engine loads.
        arguments: from its ``model.json``.
    """

    model: str
    backend: str
    weights: Path
    arguments: Mapping[str, Any]


@click.command()
@click.option(
    "--streams", "levels", multiple=True, type=click.IntRange(1, 256), default=(1, 4, 16, 32), show_default=True
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads of each engine without a server.",
)
@run_options
def llm(options: RunOptions, levels: tuple[int, ...], threads: int) -> None:
    """Measure language models at 1 to 32 streams: naive, batched, engine alone, through Triton, through the gateway.

    Skips, with a message, engines that are not installed or not exported.
    """
    settings = Settings.from_environment()
    found, skipped = find_engines(ModelRepository(settings.repository_dir))
    machine = MachineFacts.read()
    with ExitStack() as stack, _one_line_errors():
        runs, features = _contenders(settings, found, threads, stack, skipped)
        for reason in skipped:
            click.echo(f"  skipped: {reason}", err=True)
        if not runs:
            raise TriremeError("no engine is available; run: trireme export generation_economy")
        seeds = itertools.count()
        for run in runs.values():
            # The first request pays the one-time costs of an engine.
            _measure(run, seeds, 1, _WARM_UP_SECONDS)
        contenders = [
            Contender(name, f"{level} streams", functools.partial(_measure, run, seeds, level, options.seconds))
            for level in levels
            for name, run in runs.items()
        ]
        results = _with_ratios(interleave([*contenders, *features], options.repetitions))
    report = Report("llm", COLUMNS, results, machine, settings={**options.settings(), "threads": threads},
                    notes=[*NOTES, *(f"Skipped: {reason}" for reason in skipped)])  # fmt: skip
    options.publish(report)
    plot = options.output_dir / "llm.svg"
    write_atomic(plot, svg_file(chart(results)))
    click.echo(f"  wrote {plot}", err=True)


@contextmanager
def _one_line_errors() -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise ServerError(f"a stream failed, so there is nothing to compare: {error.problem}") from None


def find_engines(repository: ModelRepository) -> tuple[list[ServedEngine], list[str]]:
    """The engine models that can be loaded, and the reasons for skipping others."""
    plan = plan_loading(repository)
    configs = [
        load_model_config(folder.config_path) for folder in repository.models() if folder.name not in plan.broken
    ]
    variants = {step.model: config.name for config in configs for step in config.steps}
    found, skipped = [], []
    for folder in repository.models():
        if folder.name in plan.broken:
            continue
        backend = load_model_config(folder.config_path).backend
        if backend not in ENGINES:
            continue
        if folder.name in plan.left_out:
            skipped.append(f"{ENGINES[backend]}: {plan.left_out[folder.name]}")
            continue
        directory = folder.version_dir(folder.versions()[-1])
        arguments = json.loads((directory / "model.json").read_text())
        weights = Path(path_or_name(directory.resolve(), arguments["model"]))
        found.append(ServedEngine(variants.get(folder.name, folder.name), backend, weights, arguments))
    return found, skipped


def _contenders(
    settings: Settings, found: list[ServedEngine], threads: int, stack: ExitStack, skipped: list[str]
) -> tuple[dict[str, Work], list[Contender]]:
    """Start everything to measure; failures to start are added to ``skipped``."""
    runs: dict[str, Work] = {}
    features: list[Contender] = []

    def alone(label: str, python: Path, engine: str, weights: Path, arguments: Mapping[str, Any]) -> None:
        try:
            process = EngineProcess(python, engine, weights, threads=threads, arguments=arguments)
            runs[label] = stack.enter_context(process).run
        except TriremeError as error:
            skipped.append(f"{label}: {error}")

    vllm_python = settings.state_dir / "vllm" / "bin" / "python"
    for served in found:
        if served.backend == "vllm":
            if not vllm_python.is_file():
                skipped.append("vLLM and transformers: run: make vllm")
                continue
            alone(NAIVE, vllm_python, "transformers", served.weights, {})
            alone(BATCHED, vllm_python, "transformers+batch", served.weights, {})
        python = vllm_python if served.backend == "vllm" else Path(sys.executable)
        alone(f"{ENGINES[served.backend]} alone", python, served.backend, served.weights, served.arguments)
        if served.backend == "openvino_genai":
            alone("lookup", python, "openvino_genai+lookup", served.weights, served.arguments)
            if "lookup" in runs:
                lookup, plain = runs.pop("lookup"), runs[f"{ENGINES[served.backend]} alone"]
                features += [
                    Contender("openvino_genai alone", "plain", functools.partial(_repetitive, plain)),
                    Contender("openvino_genai alone", "prompt lookup", functools.partial(_repetitive, lookup)),
                ]
    if found:
        models = tuple(served.model for served in found)
        server = stack.enter_context(TritonServer.start(ServerFlags(settings.repository_dir, load_models=models)))
        gateway = stack.enter_context(gateway_process(server.grpc_address))
        for served in found:
            label = ENGINES[served.backend]
            through = functools.partial(_through_client, server.grpc_address, served.model)
            runs[f"{label}, Triton"] = through
            runs[f"{label}, gateway"] = functools.partial(_through_gateway, gateway.url, served.model)
            features += _features(f"{label}, Triton", server.grpc_address, served.model)
    return runs, features


def _measure(run: Work, seeds: Iterator[int], level: int, seconds: float) -> Mapping[str, float]:
    # New texts each time: a cached prefix of the previous run would favour later rows.
    return run(mixed_prompts(PROMPTS, LENGTHS_SEED, next(seeds)), streams=level, seconds=seconds).metrics()


def _through_client(address: str, model: str, prompts: list[Prompt], *, streams: int, seconds: float) -> StreamRun:
    async def load() -> StreamRun:
        async with AsyncTriremeClient(address, deadline_ms=DEADLINE_SECONDS * 1000) as client:
            return await closed_streams(_client_stream(client, model), prompts, streams=streams, seconds=seconds)

    return asyncio.run(load())


def _client_stream(client: AsyncTriremeClient, model: str) -> Stream:
    async def stream(prompt: Prompt) -> AsyncGenerator[int, None]:
        sampling = {"max_tokens": prompt.tokens, "temperature": 0, "ignore_eos": True}
        async with aclosing(client.generate(model, prompt.text, sampling_parameters=sampling)) as chunks:
            async for chunk in chunks:
                yield chunk.num_output_tokens or 0

    return stream


def _through_gateway(url: str, model: str, prompts: list[Prompt], *, streams: int, seconds: float) -> StreamRun:
    async def load() -> StreamRun:
        async with aiohttp.ClientSession(url) as session:
            stream = functools.partial(completion_stream, session, model)
            return await closed_streams(stream, prompts, streams=streams, seconds=seconds)

    return asyncio.run(load())


def _repetitive(run: Work) -> Mapping[str, float]:
    return run([Prompt(REPETITIVE, 128)], streams=1, seconds=5.0).metrics()


def _features(name: str, address: str, model: str) -> list[Contender]:
    """The caller's view of the prefix cache, and of slots freed by cancelled requests."""
    seeds = itertools.count(1000)

    def contender(case: str, *, prefix_words: int = 0, seen: bool = False, cancelled: int = 0) -> Contender:
        async def ttft_ms() -> float:
            prefix = random_text(prefix_words, next(seeds))
            async with AsyncTriremeClient(address, deadline_ms=DEADLINE_SECONDS * 1000) as client:
                stream = _client_stream(client, model)
                if seen:
                    await _first_token_ms(stream, f"{prefix} {random_text(4, next(seeds))}")
                if cancelled:
                    prompts = mixed_prompts(cancelled, LENGTHS_SEED, next(seeds))
                    await closed_streams(stream, prompts, streams=cancelled, seconds=3.0)
                return await _first_token_ms(stream, f"{prefix} {random_text(4, next(seeds))}")

        return Contender(name, case, lambda: {"ttft_p50_ms": asyncio.run(ttft_ms())})

    return [
        contender("new prefix", prefix_words=PREFIX_WORDS),
        contender("cached prefix", prefix_words=PREFIX_WORDS, seen=True),
        contender("idle"),
        contender("after 16 cancelled", cancelled=16),
    ]


async def _first_token_ms(stream: Stream, text: str) -> float:
    began = time.monotonic()
    async with aclosing(stream(Prompt(text, 2))) as pieces:
        await anext(pieces)
        return (time.monotonic() - began) * 1000


def _with_ratios(results: list[Measurement]) -> list[Measurement]:
    """Rates relative to the same engine alone, and to naive serving."""
    by_key = {(result.name, result.case): result for result in results}
    results_with_ratios = []
    for result in results:
        alone = by_key.get((f"{result.name.split(',')[0]} alone", result.case))
        naive = by_key.get((NAIVE, result.case))
        if RATE in result.values:
            if alone is not None and alone is not result:
                result = result.with_ratio(RATE, to=alone, name="of_alone")
            if naive is not None:
                result = result.with_ratio(RATE, to=naive, name="of_naive")
        results_with_ratios.append(result)
    return results_with_ratios


def chart(results: list[Measurement]) -> str:
    """Tokens per second over streams, as SVG."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for result in results:
        if result.case.endswith(" streams"):
            lines.setdefault(result.name, []).append((float(result.case.split()[0]), result.median(RATE)))
    series = [Series(name, sorted(points)) for name, points in lines.items()]
    return xy_chart("Tokens per second", series, x_label="streams", y_label="tokens/s")
