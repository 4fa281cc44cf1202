"""Start and stop the naive FastAPI server."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import ServerError
from trireme.processes.ports import LOOPBACK, free_ports

from trireme_loadtest.bench.harness.text_workload import ModelFiles

START_DEADLINE_SECONDS = 60.0
STOP_DEADLINE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class UvicornProcess:
    """A running server: uvicorn's supervisor and its workers."""

    pid: int
    url: str


@contextmanager
def naive_fastapi(files: ModelFiles, *, workers: int, intra_op_threads: int) -> Iterator[UvicornProcess]:
    """The server on a free port, all its workers ready.

    Args:
        intra_op_threads: of each worker; 0 leaves ONNX Runtime's default, a thread a core.

    Raises:
        ServerError: it ended, or was not ready in time; the sentence has the end of its log.
    """
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "uvicorn", "trireme_loadtest.bench.peers.naive_fastapi:app"]
    command += [f"--host={LOOPBACK}", f"--port={port}", f"--workers={workers}", "--no-access-log"]
    environment = {
        **os.environ,
        "MODEL_PATH": str(files.model),
        "TOKENIZER_PATH": str(files.tokenizer),
        "INTRA_OP_THREADS": str(intra_op_threads),
    }
    with tempfile.NamedTemporaryFile(prefix="uvicorn-", suffix=".log") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            _wait_until_ready(process, Path(log.name), workers)
            yield UvicornProcess(process.pid, f"http://{LOOPBACK}:{port}")
        finally:
            process.terminate()
            try:
                process.wait(STOP_DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, workers: int) -> None:
    deadline = time.monotonic() + START_DEADLINE_SECONDS
    while time.monotonic() < deadline:
        text = log.read_text(errors="replace")
        # Every worker, not the port: connections are kept, and the first worker up would be given them all.
        if text.count("Application startup complete") >= workers:
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise ServerError(f"the FastAPI server did not start: {log.read_text(errors='replace')[-500:]}")
