"""The in-process limit: the throughput of a model on these cores without a server.

Text to embedding, in batches of 8 of similar length, one process with one thread per core. A server that reaches 1.0
of it adds no cost.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection

from trireme_backends.text import TextTokenizer, pad

from trireme_loadtest.bench.harness.text_workload import ModelFiles
from trireme_loadtest.machine import machine_cpu_seconds

BATCH = 8
MAX_TOKENS = 256
ANSWER_DEADLINE_SECONDS = 600.0


@dataclass(frozen=True, slots=True)
class InProcess:
    """Running worker processes, one per core, each with the model."""

    connections: Sequence[Connection]

    def repeat(self, seconds: float) -> Mapping[str, float]:
        """Embed for at least ``seconds`` in all processes at once.

        Returns:
            ``sentences_per_second``, ``server_cpu_ms`` (per sentence) and ``other_cpu_percent`` (of a core).
        """
        machine_before, began = machine_cpu_seconds(), time.perf_counter()
        for connection in self.connections:
            connection.send(seconds)
        rate = cpu_seconds = sentences = 0.0
        for connection in self.connections:
            if not connection.poll(seconds + ANSWER_DEADLINE_SECONDS):
                raise TimeoutError("an in-process worker of the benchmark does not respond")
            done, elapsed, used = connection.recv()
            rate += done / elapsed
            sentences += done
            cpu_seconds += used
        other = max(0.0, machine_cpu_seconds() - machine_before - cpu_seconds) / (time.perf_counter() - began)
        return {
            "sentences_per_second": rate,
            "server_cpu_ms": cpu_seconds / sentences * 1000,
            "other_cpu_percent": other * 100,
        }


@contextmanager
def in_process(files: ModelFiles, sentences: Sequence[str], cores: int) -> Iterator[InProcess]:
    """Load the model in ``cores`` processes and give each a share of the sentences."""
    # spawn: a forked child would inherit gRPC's threads and locks.
    context = multiprocessing.get_context("spawn")
    connections, workers = [], []
    try:
        for core in range(cores):
            here, there = context.Pipe()
            worker = context.Process(target=_work, args=(there, files, list(sentences), core, cores), daemon=True)
            worker.start()
            connections.append(here)
            workers.append(worker)
        yield InProcess(connections)
    finally:
        for worker in workers:
            worker.terminate()
            worker.join(10)


def _work(connection: Connection, files: ModelFiles, sentences: list[str], core: int, cores: int) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(files.model, options, providers=["CPUExecutionProvider"])
    tokenizer = TextTokenizer(files.tokenizer, MAX_TOKENS)
    by_length = sorted(sentences, key=lambda sentence: len(tokenizer.encode([sentence])[0]))
    batches = [by_length[start : start + BATCH] for start in range(0, len(by_length), BATCH)][core::cores]
    while True:
        seconds = connection.recv()
        began, cpu_began, done = time.perf_counter(), time.process_time(), 0
        # Whole passes only: a truncated pass would have seen more short sentences than long ones.
        while time.perf_counter() - began < seconds:
            for batch in batches:
                ids, mask = pad(tokenizer.encode(batch))
                session.run(None, {"INPUT_IDS": ids, "ATTENTION_MASK": mask})
                done += len(batch)
        connection.send((done, time.perf_counter() - began, time.process_time() - cpu_began))
