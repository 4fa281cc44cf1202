"""Parses a stream of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable


async def event_payloads(lines: AsyncIterable[bytes]) -> AsyncGenerator[str, None]:
    """The ``data`` of each event, in order; drops comments, which are heartbeats, and an incomplete last event.

    Args:
        lines: the lines of the body, with their line ends.
    """
    data: list[str] = []
    async for line in lines:
        text = line.decode("utf-8").rstrip("\r\n")
        if not text:
            if data:
                yield "\n".join(data)
            data.clear()
        elif text.startswith("data:"):
            data.append(text[5:].removeprefix(" "))
