"""Callers from outside, at a steady rate whatever the server does (open loop), who note every answer."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trireme_client import AsyncTriremeClient, ClientError, Endpoint, RetryPolicy

from trireme_loadtest.prove.versions import OUTPUT, mark_of

_DEADLINE_SECONDS = 30.0
_TEXTS = (
    b"a short one",
    b"The service was quick and the people were friendly.",
    b"I waited for an hour, then I was told that the kitchen had closed, and nobody said sorry for it.",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks what: a model, optionally one version of it."""

    name: str
    model: str
    version: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answered:
    """One request: seconds since the epoch; ``mark`` of the version that answered, None where it gives none."""

    caller: str
    sent_at: float
    ended_at: float
    mark: int | None
    error: str = ""


class OpenLoop:
    """Sends until it is left, in a thread with an event loop of its own.

    Latency counts from the moment a request was due, so that a server that stands still is seen by all requests that
    it keeps waiting.

    Example:
        >>> with OpenLoop("127.0.0.1:8001", callers, requests_per_second=200) as load:
        ...     ...
        >>> [request for request in load.answers if request.error]
    """

    def __init__(self, address: str, callers: Sequence[Caller], requests_per_second: float) -> None:
        self.answers: list[Answered] = []
        self._address = address
        self._callers = callers
        self._period_seconds = 1 / requests_per_second
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)

    def __enter__(self) -> OpenLoop:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=2 * _DEADLINE_SECONDS)

    async def _run(self) -> None:
        running: set[asyncio.Task[None]] = set()
        endpoint, once = Endpoint(self._address, direct=True), RetryPolicy(max_attempts=1)
        async with AsyncTriremeClient(endpoint, retry=once, deadline_ms=_DEADLINE_SECONDS * 1000) as client:
            start, number = time.time(), 0
            while not self._stop.is_set():
                due = start + number * self._period_seconds
                await asyncio.sleep(max(0.0, due - time.time()))
                caller = self._callers[number % len(self._callers)]
                text = _TEXTS[number // len(self._callers) % len(_TEXTS)]
                task = asyncio.ensure_future(self._ask(client, caller, text, due))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
            await asyncio.gather(*running)

    async def _ask(self, client: AsyncTriremeClient, caller: Caller, text: bytes, due: float) -> None:
        mark, problem = None, ""
        try:
            result = await client.infer(
                caller.model, {"TEXT": [[text]]}, version=caller.version, parameters=caller.parameters
            )
            mark = mark_of(result[OUTPUT]) if OUTPUT in result.outputs else None
        except ClientError as error:
            problem = str(error)
        self.answers.append(Answered(caller.name, due, time.time(), mark, problem))
