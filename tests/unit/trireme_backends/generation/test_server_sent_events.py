from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from trireme_backends.generation.openai_protocol import event_payloads


def payloads(body: bytes) -> list[str]:
    async def lines() -> AsyncIterator[bytes]:
        for line in body.splitlines(keepends=True):
            yield line

    async def collect() -> list[str]:
        return [payload async for payload in event_payloads(lines())]

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"data: one\n\ndata: two\n\n", ["one", "two"]),
        (b"data:no blank\n\n", ["no blank"]),
        (b"data: one \n\n", ["one "]),
        (b": heartbeat\n\ndata: one\n\n", ["one"]),
        (b"event: delta\nid: 7\ndata: one\n\n", ["one"]),
        (b"data: two\ndata: lines\n\n", ["two\nlines"]),
        (b"data: one\r\n\r\n", ["one"]),
        ("data: né😀\n\n".encode(), ["né😀"]),
        (b"data: complete\n\ndata: cut o", ["complete"]),
        (b"", []),
    ],
)
def test_payloads_of_a_stream(body: bytes, expected: list[str]) -> None:
    assert payloads(body) == expected
