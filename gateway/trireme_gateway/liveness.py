"""Whether an engine that has fallen silent is still there.

When the process of a model dies, Triton leaves its streams open, and says of the model that it is ready. So who waits
for the next token asks: a request without a prompt is refused by a living engine at once, and costs it nothing.
"""

from __future__ import annotations

import asyncio
import math

from trireme_client import AsyncTriremeClient, ClientError, DeadlineError, UnavailableError

# Engines pause while they take in long prompts of others; an engine that gives nothing for a minute is as good as dead.
_SILENT_SECONDS = 2.0
_MOST_SILENT_SECONDS = 60.0
_PROBE_SECONDS = 2.0
_MOST_UNANSWERED = 3


class Watch:
    """Watches one stream; ``heard`` is called with each piece.

    Attributes:
        model: the variant that answers; "" before it is known.
    """

    def __init__(self, client: AsyncTriremeClient, model: str, affinity_key: str, *, streams: bool) -> None:
        self._client, self._affinity_key = client, affinity_key
        self._loop = asyncio.get_running_loop()
        self._heard_at = self._loop.time()
        self.model = model
        # What comes in one piece may take as long as it wants.
        self._most_silent_s = _MOST_SILENT_SECONDS if streams else math.inf

    def heard(self) -> None:
        self._heard_at = self._loop.time()

    async def until_dead(self) -> ClientError:
        """Return when the engine is dead, with what is known of it."""
        unanswered = 0
        while True:
            await asyncio.sleep(_SILENT_SECONDS / 2)
            silent_s = self._loop.time() - self._heard_at
            if not self.model or silent_s < _SILENT_SECONDS:
                unanswered = 0
                continue
            if silent_s > self._most_silent_s:
                return UnavailableError(f"the engine has said nothing for {silent_s:.0f} s")
            failure = await self._probe()
            if isinstance(failure, DeadlineError):
                unanswered += 1
            elif failure is not None:
                return UnavailableError(f"the engine's process died: {failure.problem}")
            else:
                unanswered = 0
            if unanswered >= _MOST_UNANSWERED:
                return UnavailableError("the engine does not answer any more")

    async def _probe(self) -> ClientError | None:
        """What is wrong with the engine; a request that is refused for itself was refused by a living one."""
        answers = self._client.stream(
            self.model, {"text_input": [""]}, deadline_ms=_PROBE_SECONDS * 1000, affinity_key=self._affinity_key
        )
        try:
            async for _ in answers:
                pass
        except ClientError as error:
            return None if "invalid_request" in error.problem else error
        finally:
            await answers.aclose()
        return None
