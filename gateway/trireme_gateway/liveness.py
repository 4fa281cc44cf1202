"""Whether an engine that has fallen silent is still there.

When the process of a model dies, Triton leaves its streams open, and says of the model that it is ready. So who waits
for the next token asks: a request without a prompt is refused by a living engine at once, and costs it nothing.
"""

from __future__ import annotations

import asyncio
import math

from trireme_client import AsyncTriremeClient, ClientError, DeadlineError, UnavailableError

# A stream of a dead engine ends within two seconds: silence, and two probes that fail or hang. One alone may be chance.
# All of it takes as much longer as the engine's own pauses are long: on a busy machine probes are slow as well.
_SILENT_SECONDS = 0.5
_PROBE_SECONDS = 0.6
_PAUSES = 2.0
_MOST_PAUSE_SECONDS = 2.0
_MOST_FAILED = 2
_LOOK_SECONDS = 0.1
# Between two probes that were answered, of a stream that is silent because others are served.
_REST_SECONDS = 0.6
# Engines pause while they take in long prompts of others; an engine that gives nothing for a minute is as good as dead.
_MOST_SILENT_SECONDS = 60.0


class Watch:
    """Watches one stream; ``heard`` is called with each piece.

    Attributes:
        model: the variant that answers; "" before it is known.
    """

    def __init__(self, client: AsyncTriremeClient, model: str, affinity_key: str, *, streams: bool) -> None:
        self._client, self._affinity_key = client, affinity_key
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self._pause_s = 0.0
        self.model = model
        # What comes in one piece may take as long as it wants.
        self._most_silent_s = _MOST_SILENT_SECONDS if streams else math.inf

    def heard(self) -> None:
        now = self._loop.time()
        if self.model:  # the wait for the first piece is no pause between two
            self._pause_s = max(self._pause_s, min(now - self._heard_at, _MOST_PAUSE_SECONDS))
        self._heard_at = now

    async def until_dead(self) -> ClientError:
        """Return when the engine is dead, with what is known of it."""
        failed, rest_until = 0, 0.0
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._loop.time()
            silent_s = now - self._heard_at
            if not self.model or silent_s < max(_SILENT_SECONDS, _PAUSES * self._pause_s):
                failed = 0
                continue
            if silent_s > self._most_silent_s:
                return UnavailableError(f"the engine has said nothing for {silent_s:.0f} s")
            if now < rest_until:
                continue
            failure = await self._probe()
            if failure is None:
                failed, rest_until = 0, self._loop.time() + _REST_SECONDS
                continue
            failed += 1
            if failed == _MOST_FAILED:
                if isinstance(failure, DeadlineError):
                    return UnavailableError("the engine does not answer any more")
                return UnavailableError(f"the engine's process died: {failure.problem}")

    async def _probe(self) -> ClientError | None:
        """What is wrong with the engine; a request that is refused for itself was refused by a living one."""
        answers = self._client.stream(
            self.model, {"text_input": [""]}, affinity_key=self._affinity_key,
            deadline_ms=max(_PROBE_SECONDS, _PAUSES * self._pause_s) * 1000,
        )  # fmt: skip
        try:
            async for _ in answers:
                pass
        except ClientError as error:
            return None if "invalid_request" in error.problem else error
        finally:
            await answers.aclose()
        return None
