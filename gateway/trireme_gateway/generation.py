"""Generating: from a request to the pieces of its answers, whichever comes first."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trireme_client import AsyncTriremeClient, ClientError, GenerationChunk
from trireme_client.generation import Prompt

from trireme_gateway.asks import RouteAsk
from trireme_gateway.errors import ApiError, from_client_error
from trireme_gateway.forms import DONE, ChatForm, Choice, CompletionForm, usage
from trireme_gateway.liveness import Watch
from trireme_gateway.metrics import Metrics
from trireme_gateway.visit import Visit

# Pieces that wait for a caller who reads slowly; then no more are taken from the engine's stream.
_MOST_WAITING = 64


@dataclass(frozen=True, slots=True)
class GenerationAsk:
    """What a caller wants generated.

    Attributes:
        engine: the model, where it answers itself; "" of a route, which names one.
        prompts: one answer for each: a text, or the messages of a chat.
        echo: prompts stand before their answers.
        renamed: what the caller calls parameters of the engine.
    """

    model: str
    engine: str
    prompts: Sequence[str | list[dict[str, str]]]
    sampling: Mapping[str, Any]
    stream: bool
    include_usage: bool
    echo: bool
    route: RouteAsk
    renamed: dict[str, str]


class Generation:
    """One request on its way. Its pieces come through one queue of bounded length, a task for each prompt."""

    def __init__(self, client: AsyncTriremeClient, ask: GenerationAsk, visit: Visit, metrics: Metrics) -> None:
        self._client, self._ask, self._visit, self._metrics = client, ask, visit, metrics
        self._deadline = time.monotonic() + ask.route.timeout_ms / 1000
        self._queue: asyncio.Queue[tuple[int, GenerationChunk | Exception | None]] = asyncio.Queue(_MOST_WAITING)
        self._pumps: list[asyncio.Task[None]] = []
        echoed = [prompt if ask.echo and isinstance(prompt, str) else "" for prompt in ask.prompts]
        self.choices = [Choice(prompt) for prompt in echoed]

    async def whole(self) -> list[Choice]:
        """All answers.

        Raises:
            ApiError: one failed.
        """
        async with contextlib.aclosing(self._batches()) as batches:
            async for _ in batches:
                pass
        return self.choices

    async def events(self, form: ChatForm | CompletionForm) -> AsyncGenerator[bytes, None]:
        """The answers as events; what waits is told in one.

        Raises:
            ApiError: one failed.
        """
        choices = self.choices
        with self._metrics.streams.track_inprogress():
            async with contextlib.aclosing(self._batches()) as batches:
                before = form.first_events(choices)
                async for batch in batches:
                    told = [before] if before else []
                    before = b""
                    for index, chunks in batch.items():
                        text = "".join(chunk.text for chunk in chunks)
                        logprobs = [token for chunk in chunks for token in chunk.logprobs or ()]
                        if text or logprobs:
                            told.append(form.text_event(index, text, logprobs))
                        if chunks[-1].finish_reason:
                            told.append(form.last_event(index, chunks[-1].finish_reason))
                    if told:
                        yield b"".join(told)
            yield form.usage_event(choices) + DONE if self._ask.include_usage else DONE

    async def _batches(self) -> AsyncGenerator[dict[int, list[GenerationChunk]], None]:
        """All pieces that are there, by answer."""
        queue, open_answers = self._queue, len(self._ask.prompts)
        first_token, inter_token = (
            histogram.labels(self._ask.model)
            for histogram in (self._metrics.first_token_seconds, self._metrics.inter_token_seconds)
        )
        last = None
        self._pumps = [asyncio.create_task(self._pump(index)) for index in range(open_answers)]
        try:
            while open_answers:
                items = [await queue.get()]
                while not queue.empty():
                    items.append(queue.get_nowait())
                batch: dict[int, list[GenerationChunk]] = {}
                failure: Exception | None = None
                for index, item in items:
                    if item is None:
                        open_answers -= 1
                    elif isinstance(item, Exception):
                        failure = item
                        break
                    else:
                        batch.setdefault(index, []).append(item)
                if batch:
                    tokens, now = self._take(batch), time.monotonic()
                    if last is None:
                        first_token.observe(now - self._visit.began)
                    elif tokens and self._ask.stream:
                        inter_token.observe((now - last) / tokens)
                    last = now
                    yield batch
                if failure is not None:
                    raise self._error(failure)
        finally:
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            used = usage(self.choices)
            self._visit.used(used["prompt_tokens"], used["completion_tokens"])

    def _take(self, batch: Mapping[int, list[GenerationChunk]]) -> int:
        """Note what came; how many tokens it is."""
        tokens = 0
        for index, chunks in batch.items():
            choice = self.choices[index]
            for chunk in chunks:
                if not choice.num_input_tokens:
                    choice.num_input_tokens = chunk.num_input_tokens or 0
                    self._visit.answered_by(chunk.model, chunk.version, chunk.reason)
                tokens += chunk.num_output_tokens or 0
                choice.finish_reason = chunk.finish_reason or choice.finish_reason
                if not self._ask.stream:
                    choice.parts.append(chunk.text)
                    choice.logprobs += chunk.logprobs or ()
            choice.num_output_tokens += sum(chunk.num_output_tokens or 0 for chunk in chunks)
        return tokens

    async def _pump(self, index: int) -> None:
        ask, prompt = self._ask, self._ask.prompts[index]
        put = self._queue.put
        text, messages = (prompt, None) if isinstance(prompt, str) else (None, prompt)
        key = Prompt(text, messages, {}, True).prefix_key()
        # Of a route only the pieces tell which engine there is to watch.
        in_pieces = ask.stream or not ask.engine
        watch = Watch(self._client, ask.engine, key, streams=in_pieces)
        watching = asyncio.create_task(self._watch(index, watch))
        try:
            chunks = self._client.generate(
                ask.model,
                text,
                messages=messages,
                sampling_parameters=ask.sampling,
                stream=in_pieces,
                parameters=ask.route.parameters,
                deadline_ms=max(1.0, (self._deadline - time.monotonic()) * 1000),
                request_id=self._visit.request_id,
            )
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    watch.heard()
                    watch.model = chunk.model
                    await put((index, chunk))
        except Exception as error:
            await put((index, error))
        else:
            await put((index, None))
        finally:
            watching.cancel()

    async def _watch(self, index: int, watch: Watch) -> None:
        await self._queue.put((index, await watch.until_dead()))

    def _error(self, failure: Exception) -> ApiError:
        if not isinstance(failure, ClientError):
            raise failure
        return from_client_error(failure, self._ask.renamed)
