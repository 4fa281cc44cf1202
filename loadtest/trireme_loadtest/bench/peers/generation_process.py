"""Starts the engines of ``generation_engine.py`` and runs load on them."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from trireme.errors import ServerError

from trireme_loadtest.generate.streams import Prompt, StreamRun, StreamTimes

_PROGRAM = Path(__file__).with_name("generation_engine.py")
_LOAD_DEADLINE_SECONDS = 180.0
_STOP_DEADLINE_SECONDS = 20.0
# Time beyond the seconds of a run, for a last prompt or a large batch.
_SLACK_SECONDS = 240.0


class EngineProcess:
    """One engine without a server.

    Example:
        >>> with EngineProcess(Path(sys.executable), "openvino_genai", weights, threads=1) as engine:
        ...     engine.run(prompts, streams=4, seconds=10.0)
    """

    def __init__(
        self, python: Path, engine: str, model: Path, *, threads: int, arguments: Mapping[str, Any] | None = None
    ) -> None:
        """``python``: of the engine's environment; ``arguments``: the content of the model's ``model.json``."""
        self._name = engine
        self._log: IO[bytes] = tempfile.NamedTemporaryFile(prefix="engine-", suffix=".log")  # noqa: SIM115 - till stop
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "NUMBA_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        self._process = subprocess.Popen(
            [str(python), str(_PROGRAM), engine, str(model), str(threads), json.dumps(dict(arguments or {}))],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log,
        )  # fmt: skip

    def __enter__(self) -> EngineProcess:
        try:
            self._line(_LOAD_DEADLINE_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, prompts: Sequence[Prompt], *, streams: int, seconds: float) -> StreamRun:
        """Keep ``streams`` of the prompts running for ``seconds``.

        Raises:
            ServerError: the engine ended, or does not respond.
        """
        requests = [{"prompt": prompt.text, "tokens": prompt.tokens} for prompt in prompts]
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"requests": requests, "streams": streams, "seconds": seconds}).encode())
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._line(seconds + _SLACK_SECONDS))
        return StreamRun(answer["seconds"], [StreamTimes(one["sent"], one["tokens"]) for one in answer["streams"]])

    def stop(self) -> None:
        self._process.kill()
        self._process.wait(_STOP_DEADLINE_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout, self._log):
            if pipe is not None:
                pipe.close()

    def _line(self, deadline_seconds: float) -> bytes:
        assert self._process.stdout is not None
        ends = time.monotonic() + deadline_seconds
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if selector.select(max(0.0, ends - time.monotonic())) and (line := self._process.stdout.readline()):
                return line
        lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise ServerError(f"the engine {self._name} did not respond: {lines[0][:300]}")
