"""Detects a dead engine behind a stream that has gone silent.

When a model's process dies, Triton leaves its streams open and still reports the model as ready. So a stream that waits
for its next token probes the engine: a live engine rejects a request without a prompt at once, at no cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from pathlib import Path

from trireme_client import AsyncTriremeClient, ClientError, DeadlineError, UnavailableError

# A stream of a dead engine ends within two seconds: silence, then two probes that fail or hang; one may be chance.
# All limits grow with the engine's own pauses and with the machine's load: on a busy machine probes are slow as well.
_SILENT_SECONDS = 0.5
_PROBE_SECONDS = 0.6
# Share of time in which a process waited for a CPU (https://docs.kernel.org/accounting/psi.html); not in every kernel.
_CPU_PRESSURE = Path("/proc/pressure/cpu")
_MOST_SLOWDOWN = 10.0
_PAUSES = 2.0
_MOST_PAUSE_SECONDS = 2.0
_MOST_FAILED = 2
_LOOK_SECONDS = 0.1
# Interval between answered probes of a stream that is silent because other streams are served.
_REST_SECONDS = 0.6
# Engines pause for the long prompts of other requests; after a minute without output an engine counts as dead.
_MOST_SILENT_SECONDS = 60.0


class EngineWatch:
    """Watches one stream; call ``on_chunk`` for each chunk.

    Attributes:
        model: the variant that generates; "" until it is known.
    """

    def __init__(self, client: AsyncTriremeClient, model: str, affinity_key: str, *, streams: bool) -> None:
        self._client, self._affinity_key = client, affinity_key
        self._loop = asyncio.get_running_loop()
        self._last_chunk_at = self._loop.time()
        self._pause_s = 0.0
        self.model = model
        # A response in one piece has no limit between chunks.
        self._most_silent_s = _MOST_SILENT_SECONDS if streams else math.inf

    def on_chunk(self) -> None:
        now = self._loop.time()
        if self.model:  # the wait for the first chunk is not a pause between chunks
            self._pause_s = max(self._pause_s, min(now - self._last_chunk_at, _MOST_PAUSE_SECONDS))
        self._last_chunk_at = now

    async def until_dead(self) -> ClientError:
        """Wait until the engine is dead; return the reason."""
        failed, rest_until = 0, 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._loop.time()
            silent_s = now - self._last_chunk_at
            if not self.model or silent_s < _SILENT_SECONDS or silent_s < self._limit_s(_SILENT_SECONDS):
                failed = 0
                continue
            if silent_s > self._most_silent_s:
                return UnavailableError(f"the engine has produced no output for {silent_s:.0f} s")
            if now < rest_until:
                continue
            failure = await self._probe()
            if failure is None:
                failed, rest_until = 0, self._loop.time() + _REST_SECONDS
                continue
            failed += 1
            if failed == _MOST_FAILED:
                if isinstance(failure, DeadlineError):
                    return UnavailableError("the engine no longer responds")
                return UnavailableError(f"the engine's process died: {failure.problem}")

    def _limit_s(self, idle_s: float) -> float:
        """A time limit of ``idle_s`` on an idle machine, as long as it must be now."""
        return max(idle_s * _slowdown(), _PAUSES * self._pause_s)

    async def _probe(self) -> ClientError | None:
        """The engine's failure; None when it rejected the probe, which only a live engine does."""
        chunks = self._client.stream(
            self.model, {"text_input": [""]}, affinity_key=self._affinity_key,
            deadline_ms=self._limit_s(_PROBE_SECONDS) * 1000,
        )  # fmt: skip
        try:
            async for _ in chunks:
                pass
        except ClientError as error:
            return None if "invalid_request" in error.problem else error
        finally:
            await chunks.aclose()
        return None


def _slowdown() -> float:
    """How much longer processes take because they wait for a CPU: 1 to 10."""
    pressure = 0.0
    with contextlib.suppress(OSError, IndexError, ValueError):
        pressure = float(_CPU_PRESSURE.read_text().split()[1].removeprefix("avg10=")) / 100
    return min(1 / max(1 - pressure, 1e-3), _MOST_SLOWDOWN)
