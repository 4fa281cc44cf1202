"""Other servers that a benchmark starts, each a process with a log, stopped at the end of the block."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import ServerError
from trireme.processes.ports import LOOPBACK, free_ports

from trireme_loadtest.bench.harness.text_workload import ModelFiles

START_DEADLINE_SECONDS = 60.0
STOP_DEADLINE_SECONDS = 40.0


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running server: its root process and its address."""

    pid: int
    url: str


@contextmanager
def server_process(
    name: str, arguments: Sequence[str], port: int, is_ready: Callable[[str], bool], environment: Mapping[str, str]
) -> Iterator[ServerProcess]:
    """Start ``python arguments`` and wait until it is ready.

    Args:
        is_ready: whether its log so far shows that it is ready.

    Raises:
        ServerError: it ended, or was not ready in time; the message has the end of its log.
    """
    with tempfile.NamedTemporaryFile(prefix="server-", suffix=".log") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments], env={**os.environ, **environment}, stdout=log, stderr=log
        )
        try:
            deadline = time.monotonic() + START_DEADLINE_SECONDS
            while not is_ready(text := Path(log.name).read_text(errors="replace")):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise ServerError(f"{name} did not start: {text.strip()[-500:] or 'no output'}")
                time.sleep(0.1)
            yield ServerProcess(process.pid, f"http://{LOOPBACK}:{port}")
        finally:
            process.terminate()
            try:
                process.wait(STOP_DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def naive_fastapi(files: ModelFiles, *, workers: int, intra_op_threads: int) -> Iterator[ServerProcess]:
    """Start the FastAPI server on a free port and wait until all its workers are ready.

    Args:
        intra_op_threads: of each worker; 0 for ONNX Runtime's default of one thread per core.
    """
    (port,) = free_ports(1)
    arguments = ["-m", "uvicorn", "trireme_loadtest.bench.peers.naive_fastapi:app", f"--host={LOOPBACK}"]
    arguments += [f"--port={port}", f"--workers={workers}", "--no-access-log"]
    environment = {
        "MODEL_PATH": str(files.model),
        "TOKENIZER_PATH": str(files.tokenizer),
        "INTRA_OP_THREADS": str(intra_op_threads),
    }

    def is_ready(log: str) -> bool:
        # Wait for every worker, not the port: connections are kept alive, and the first worker would receive all.
        return log.count("Application startup complete") >= workers

    with server_process("the FastAPI server", arguments, port, is_ready, environment) as server:
        yield server
