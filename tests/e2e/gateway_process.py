"""``trireme gateway`` as a process of its own, on a free port."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from trireme.processes.ports import free_ports

from tests.deadlines import scaled

# Hang guards, not measures.
DEADLINE_SECONDS = scaled(60.0)


class GatewayProcess:
    """A running gateway; ``url`` is where it listens."""

    def __init__(self, directory: Path, *options: str, triton: str, triton_http: str = "") -> None:
        (port,) = free_ports(1)
        self.address, self.log_path = ("127.0.0.1", port), directory / f"gateway-{port}.log"
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "trireme_gateway", "--triton", triton, "--triton-http", triton_http]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen([*command, "--listen", f"127.0.0.1:{port}", *options], stderr=log)

    def __enter__(self) -> GatewayProcess:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                httpx.get(f"{self.url}/healthz")
            except httpx.TransportError:
                assert self.process.poll() is None, self.log_path.read_text()
                assert time.monotonic() < deadline, "the gateway did not come up"
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=DEADLINE_SECONDS)
        finally:
            self.process.kill()
        if error is None:
            assert code == 0, self.log_path.read_text()
            assert "Traceback" not in self.log_path.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """What it has logged."""
        return [json.loads(line) for line in self.log_path.read_text().splitlines()]

    def wait_for_line(self, **fields: str) -> dict[str, Any]:
        """The line with these fields; it is written when the answer is."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            for line in self.lines():
                if fields.items() <= line.items():
                    return line
            assert time.monotonic() < deadline, f"no line has {fields}"
            time.sleep(0.05)

    def post(self, path: str, body: Mapping[str, Any] | bytes, **headers: str) -> httpx.Response:
        """``path`` is relative to ``/v1``."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        request_headers = {"content-type": "application/json", **headers}
        return httpx.post(f"{self.url}/v1/{path}", content=content, headers=request_headers, timeout=DEADLINE_SECONDS)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples with these labels."""
        return sum_metric(f"{self.url}/metrics", name, **labels)


def sum_metric(url: str, name: str, **labels: str) -> float:
    lines = httpx.get(url).text.splitlines()
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    found = [line for line in lines if line.startswith((name + "{", name + " ")) and all(one in line for one in wanted)]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def events(text: str) -> list[dict[str, Any]]:
    """The events of a stream that ended well, without the last, [DONE]."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(one) for one in lines[:-1]]
