"""The payloads of a stream of server-sent events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable


async def event_payloads(lines: AsyncIterable[bytes]) -> AsyncGenerator[str, None]:
    """The ``data`` of each event, in order, and nothing else: comments are heartbeats.

    An event that the stream's end cut off is not told.

    Args:
        lines: the body, line by line, each with its line end.
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
