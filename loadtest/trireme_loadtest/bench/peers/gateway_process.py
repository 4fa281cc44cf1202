"""The gateway in front of one Triton, and streams of completions through it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager

import aiohttp
from trireme.errors import ServerError
from trireme.processes.ports import LOOPBACK, free_ports, open_direct

from trireme_loadtest.bench.peers.server_process import ServerProcess, server_process
from trireme_loadtest.generate.streams import Prompt


@contextmanager
def gateway_process(triton_address: str) -> Iterator[ServerProcess]:
    """``trireme gateway`` on a free port, without keys."""
    (port,) = free_ports(1)
    arguments = ["-m", "trireme_gateway", "--triton", triton_address, f"--listen={LOOPBACK}:{port}"]

    def is_ready(_: str) -> bool:
        try:
            with open_direct(f"http://{LOOPBACK}:{port}/healthz", 2.0):
                return True
        except OSError:
            return False

    with server_process("the gateway", arguments, port, is_ready, {}) as gateway:
        yield gateway


async def completion_stream(session: aiohttp.ClientSession, model: str, prompt: Prompt) -> AsyncGenerator[int, None]:
    """Yield token counts: one event per token, as the engines send them; the last event has the total."""
    body = {"model": model, "prompt": prompt.text, "max_tokens": prompt.tokens, "temperature": 0, "stream": True,
            "ignore_eos": True, "stream_options": {"include_usage": True}}  # fmt: skip
    counted = 0
    async with session.post("/v1/completions", json=body) as response:
        if response.status != 200:
            raise ServerError(f"the gateway rejected the request: {(await response.text())[:300]}")
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                # Tokens without text of their own so far, such as half of a character.
                yield max(0, event["usage"]["completion_tokens"] - counted)
            elif event["choices"]:
                counted += 1
                yield 1
