"""The gateway before one Triton, and streams of completions through it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from types import TracebackType

import aiohttp
from trireme.direct_http import open_direct
from trireme.errors import ServerError
from trireme.processes.ports import LOOPBACK, free_ports

from trireme_loadtest.generate.streams import Prompt

_START_DEADLINE_SECONDS = 60.0
_STOP_DEADLINE_SECONDS = 40.0


class GatewayProcess:
    """``trireme gateway`` on a free port, without keys."""

    def __init__(self, triton_address: str) -> None:
        (port,) = free_ports(1)
        self._url = f"http://{LOOPBACK}:{port}"
        self._log = tempfile.NamedTemporaryFile(prefix="gateway-", suffix=".log")  # noqa: SIM115 - till its end
        command = [sys.executable, "-m", "trireme_gateway", "--triton", triton_address, f"--listen={LOOPBACK}:{port}"]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def __enter__(self) -> GatewayProcess:
        ends = time.monotonic() + _START_DEADLINE_SECONDS
        while time.monotonic() < ends and self._process.poll() is None:
            try:
                with open_direct(f"{self._url}/healthz", 2.0):
                    return self
            except OSError:
                time.sleep(0.1)
        self.stop()
        lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
        raise ServerError(f"the gateway did not start: {lines[0][:300]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(_STOP_DEADLINE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(self._url)

    async def stream(self, session: aiohttp.ClientSession, model: str, prompt: Prompt) -> AsyncGenerator[int, None]:
        """One event a token, as the engines behind it give them; the last has their number."""
        body = {"model": model, "prompt": prompt.text, "max_tokens": prompt.tokens, "temperature": 0, "stream": True,
                "ignore_eos": True, "stream_options": {"include_usage": True}}  # fmt: skip
        counted = 0
        async with session.post("/v1/completions", json=body) as response:
            if response.status != 200:
                raise ServerError(f"the gateway refuses: {(await response.text())[:300]}")
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                event = json.loads(line[6:])
                if event.get("usage"):
                    # Tokens that made no text of their own yet, half of a character.
                    yield max(0, event["usage"]["completion_tokens"] - counted)
                elif event["choices"]:
                    counted += 1
                    yield 1
