"""``trireme bench serving``: our embedding variants, the in-process limit and a naive server, on the same sentences."""

from __future__ import annotations

import asyncio
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import click
import numpy as np
import numpy.typing as npt
import onnxruntime
from trireme.errors import ServerError
from trireme.processes.server import ServerFlags, TritonServer
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import load_model_config
from trireme.settings import Settings
from trireme_backends.text import TextTokenizer, pad

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
from trireme_loadtest.bench.peers.in_process import MAX_TOKENS, in_process
from trireme_loadtest.bench.peers.server_process import naive_fastapi
from trireme_loadtest.generate.closed_loop import measure_closed_loop
from trireme_loadtest.generate.requests import grpc_body, grpc_outputs, text_tensors
from trireme_loadtest.generate.targets import GrpcTarget, HttpTarget, Target

OUTPUT = "EMBEDDING"
LIMIT = "in-process limit"
# ONNX Runtime's threads in each worker; 0 is its default, one thread per core.
PEERS = {"FastAPI": 0, "FastAPI, 1 thread per worker": 1}
RATE = "sentences_per_second"
CHECKED_SENTENCES = 4
# The model of the peers, if it is measured: the fp32 model that their users would choose.
PEER_MODEL = "embedding_premium"
DEADLINE_SECONDS = 30.0
# int8 output depends on the other rows of its batch, so the same text does not always give the same floats.
LEAST_COSINE = 0.97

Vectors = npt.NDArray[np.float32]

NOTES = (
    "The limit is text to embedding without a server: batches of 8 of similar length, one process with one thread "
    "per core. The generator runs on the same cores; its requests are serialised beforehand, its responses are not "
    "decoded. gRPC costs it more than HTTP: 'generator CPU-ms' is the cost with each server.",
    "The peer is the faster of the two FastAPI rows at the same concurrency: ONNX Runtime's default of one thread per "
    "core in every worker is best for one caller, one thread per worker for many.",
    "'other CPU' is the CPU time of all other processes, in per cent of a core. Above a few per cent the machine was "
    "not idle, and the ratios are more reliable than the rates.",
)
COLUMNS = (
    Column("sentences/s", RATE, digits=0, spread=True),
    Column("of the limit", "share_of_limit", digits=2, spread=True),
    Column("of the peer", "share_of_peer", digits=2),
    Column("p50 ms", "p50_ms"),
    Column("p95 ms", "p95_ms"),
    Column("p99 ms", "p99_ms"),
    Column("server CPU-ms", "server_cpu_ms"),
    Column("generator CPU-ms", "generator_cpu_ms", digits=2),
    Column("other CPU %", "other_cpu_percent", digits=0),
    Column("RSS MiB", "rss_mib", digits=0),
)


@dataclass(frozen=True, slots=True)
class TestedServer:
    """A running server under test.

    Attributes:
        files: the model it serves, which determines its limit.
        pid: root of its processes.
        connect: opens a new target.
        bodies: the sentences, serialised.
        decode: returns a response's embedding, FP32 [384].
    """

    name: str
    files: ModelFiles
    pid: int
    connect: Callable[[], Target]
    bodies: Sequence[bytes]
    decode: Callable[[bytes], Vectors]

    def contender(self, concurrency: int, seconds: float) -> Contender:
        def repeat() -> Mapping[str, float]:
            run = asyncio.run(
                measure_closed_loop(
                    self.connect(),
                    self.bodies,
                    concurrency=concurrency,
                    seconds=seconds,
                    server_pid=self.pid,
                )
            )
            requests = len(run.latencies_ms)
            return {
                RATE: run.rate,
                **run.percentiles_ms(),
                "server_cpu_ms": run.server_cpu_seconds / requests * 1000,
                "generator_cpu_ms": run.generator_cpu_seconds / requests * 1000,
                "other_cpu_percent": run.other_cpu_seconds / run.seconds * 100,
                "rss_mib": run.rss_mib,
            }

        return Contender(self.name, f"concurrency {concurrency}", repeat)

    def check(self, reference: Sequence[Vectors]) -> None:
        """Verify the embeddings before measuring.

        Raises:
            ServerError: a response is not the embedding that the model computes in process.
        """

        async def send() -> list[bytes]:
            async with self.connect() as target:
                return [await target.send(body) for body in self.bodies[: len(reference)]]

        for answer, expected in zip(asyncio.run(send()), reference, strict=True):
            found = self.decode(answer)
            cosine = float(found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected)))
            if cosine < LEAST_COSINE:
                raise ServerError(f"{self.name} returns other embeddings than its model: cosine {cosine:.3f}")


@click.command()
@click.option("--model", "models", multiple=True, help="Embedding ensemble; repeatable. [all in the repository]")
@click.option("--concurrency", "levels", multiple=True, type=click.IntRange(1, 1024), default=(1, 8, 32))
@run_options
def serving(options: RunOptions, models: tuple[str, ...], levels: tuple[int, ...]) -> None:
    """Compare our embedding variants with the in-process limit and naive FastAPI + ONNX Runtime.

    One sentence per request. All servers run all the time, but only one receives requests at a time.
    """
    settings = Settings.from_environment()
    repository = ModelRepository(settings.repository_dir)
    variants = {name: ModelFiles.of_ensemble(repository, name) for name in models or _embedding_ensembles(repository)}
    peer_files = variants.get(PEER_MODEL) or next(iter(variants.values()))
    sentences = review_sentences(settings.sources_dir, peer_files.tokenizer)
    machine = MachineFacts.read()
    with ExitStack() as stack:
        limits = {}
        for name, files in variants.items():
            if files.model_sha256 not in limits:
                running = stack.enter_context(in_process(files, sentences, machine.cores))
                limits[files.model_sha256] = Contender(
                    f"{LIMIT} of {name}", "", functools.partial(running.repeat, options.seconds)
                )
        served = [stack.enter_context(_triton(repository, name, files, sentences)) for name, files in variants.items()]
        served += [
            stack.enter_context(_fastapi(name, peer_files, sentences, workers=machine.cores, intra_op_threads=threads))
            for name, threads in PEERS.items()
        ]
        for server in served:
            server.check(_reference(server.files, sentences[:CHECKED_SENTENCES]))
        contenders = [
            *limits.values(),
            *(server.contender(level, options.seconds) for level in levels for server in served),
        ]
        results = interleave(contenders, options.repetitions)
    options.publish(
        Report(
            "serving",
            COLUMNS,
            _with_shares(results, {server.name: limits[server.files.model_sha256].name for server in served}),
            machine,
            settings={**options.settings(), "sentences": len(sentences)},
            notes=NOTES,
        )
    )


def _embedding_ensembles(repository: ModelRepository) -> list[str]:
    configs = [load_model_config(folder.config_path) for folder in repository.models()]
    return [
        config.name for config in configs if config.is_ensemble and OUTPUT in {output.name for output in config.outputs}
    ]


@contextmanager
def _triton(
    repository: ModelRepository, name: str, files: ModelFiles, sentences: Sequence[str]
) -> Iterator[TestedServer]:
    """A separate server for one variant, so that CPU time and memory are that variant's."""
    with TritonServer.start(ServerFlags(repository.path, load_models=(name,))) as server:
        yield TestedServer(
            name=name,
            files=files,
            pid=server.pid,
            connect=lambda: GrpcTarget(server.grpc_address, DEADLINE_SECONDS),
            bodies=[grpc_body(name, text_tensors(sentence)) for sentence in sentences],
            decode=lambda response: grpc_outputs(response)[OUTPUT][0],
        )


@contextmanager
def _fastapi(
    name: str, files: ModelFiles, sentences: Sequence[str], *, workers: int, intra_op_threads: int
) -> Iterator[TestedServer]:
    with naive_fastapi(files, workers=workers, intra_op_threads=intra_op_threads) as server:
        yield TestedServer(
            name=name,
            files=files,
            pid=server.pid,
            connect=lambda: HttpTarget(f"{server.url}/embed", DEADLINE_SECONDS),
            bodies=[json.dumps({"text": sentence}).encode() for sentence in sentences],
            decode=lambda response: np.array(json.loads(response)["embedding"], dtype=np.float32),
        )


def _reference(files: ModelFiles, sentences: Sequence[str]) -> list[Vectors]:
    """The embedding of each sentence, computed alone, in this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(files.model, options, providers=["CPUExecutionProvider"])
    vectors = []
    for tokens in TextTokenizer(files.tokenizer, MAX_TOKENS).encode(list(sentences)):
        ids, mask = pad([tokens])
        (rows,) = session.run([OUTPUT], {"INPUT_IDS": ids, "ATTENTION_MASK": mask})
        vectors.append(rows[0])
    return vectors


def _with_shares(results: Sequence[Measurement], limit_of: Mapping[str, str]) -> list[Measurement]:
    """Each server's rate as a share of its model's limit, and of the faster peer at the same concurrency."""
    found = {(result.name, result.case): result for result in results}

    def peer(case: str) -> Measurement:
        return max((found[name, case] for name in PEERS), key=lambda result: result.median(RATE))

    return [
        result.with_ratio(RATE, to=found[limit_of[result.name], ""], name="share_of_limit").with_ratio(
            RATE, to=peer(result.case), name="share_of_peer"
        )
        if result.name in limit_of
        else result
        for result in results
    ]
