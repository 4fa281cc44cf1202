"""Generation: one request, a stream of chunks for each prompt."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trireme_client import AsyncTriremeClient, ClientError, GenerationChunk
from trireme_client.generation import Prompt

from trireme_gateway.engine_watch import EngineWatch
from trireme_gateway.errors import ApiError, from_client_error
from trireme_gateway.metrics import Metrics
from trireme_gateway.request_context import RequestContext
from trireme_gateway.response_format import DONE, ChatFormat, Choice, CompletionFormat, usage
from trireme_gateway.route_options import RouteOptions

# Chunks buffered for a caller that reads slowly; beyond that the engine's stream is not read.
_MOST_WAITING = 64


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A parsed request for completions.

    Attributes:
        engine: the model if it is an engine; "" for a route, which chooses one.
        prompts: one choice for each: a text, or the messages of a chat.
        echo: prepend each prompt to its completion.
        renamed: the engine's parameter names -> the names in the caller's request.
    """

    model: str
    engine: str
    prompts: Sequence[str | list[dict[str, str]]]
    sampling: Mapping[str, Any]
    stream: bool
    include_usage: bool
    echo: bool
    route: RouteOptions
    renamed: dict[str, str]


class Generation:
    """One request in progress: a task for each prompt reads chunks into one bounded queue."""

    def __init__(
        self, client: AsyncTriremeClient, request: GenerationRequest, context: RequestContext, metrics: Metrics
    ) -> None:
        self._client, self._request, self._context, self._metrics = client, request, context, metrics
        self._deadline = time.monotonic() + request.route.timeout_ms / 1000
        self._queue: asyncio.Queue[tuple[int, GenerationChunk | Exception | None]] = asyncio.Queue(_MOST_WAITING)
        self._readers: list[asyncio.Task[None]] = []
        echoed = [prompt if request.echo and isinstance(prompt, str) else "" for prompt in request.prompts]
        self.choices = [Choice(prompt) for prompt in echoed]

    async def whole(self) -> list[Choice]:
        """All choices, complete.

        Raises:
            ApiError: generation failed.
        """
        async with contextlib.aclosing(self._batches()) as batches:
            async for _ in batches:
                pass
        return self.choices

    async def events(self, response_format: ChatFormat | CompletionFormat) -> AsyncGenerator[bytes, None]:
        """Server-sent events; chunks that are already buffered become one event.

        Raises:
            ApiError: generation failed.
        """
        choices = self.choices
        with self._metrics.streams.track_inprogress():
            async with contextlib.aclosing(self._batches()) as batches:
                before = response_format.first_events(choices)
                async for batch in batches:
                    events = [before] if before else []
                    before = b""
                    for index, chunks in batch.items():
                        text = "".join(chunk.text for chunk in chunks)
                        logprobs = [token for chunk in chunks for token in chunk.logprobs or ()]
                        if text or logprobs:
                            events.append(response_format.text_event(index, text, logprobs))
                        if chunks[-1].finish_reason:
                            events.append(response_format.last_event(index, chunks[-1].finish_reason))
                    if events:
                        yield b"".join(events)
            yield response_format.usage_event(choices) + DONE if self._request.include_usage else DONE

    async def _batches(self) -> AsyncGenerator[dict[int, list[GenerationChunk]], None]:
        """All buffered chunks, by index of the choice."""
        queue, open_choices = self._queue, len(self._request.prompts)
        first_token, inter_token = (
            histogram.labels(self._request.model)
            for histogram in (self._metrics.first_token_seconds, self._metrics.inter_token_seconds)
        )
        last = None
        self._readers = [asyncio.create_task(self._read_chunks(index)) for index in range(open_choices)]
        try:
            while open_choices:
                items = [await queue.get()]
                while not queue.empty():
                    items.append(queue.get_nowait())
                batch: dict[int, list[GenerationChunk]] = {}
                failure: Exception | None = None
                for index, item in items:
                    if item is None:
                        open_choices -= 1
                    elif isinstance(item, Exception):
                        failure = item
                        break
                    else:
                        batch.setdefault(index, []).append(item)
                if batch:
                    tokens, now = self._take(batch), time.monotonic()
                    if last is None:
                        first_token.observe(now - self._context.began)
                    elif tokens and self._request.stream:
                        inter_token.observe((now - last) / tokens)
                    last = now
                    yield batch
                if failure is not None:
                    raise self._error(failure)
        finally:
            for reader in self._readers:
                reader.cancel()
            await asyncio.gather(*self._readers, return_exceptions=True)
            used = usage(self.choices)
            self._context.used(used["prompt_tokens"], used["completion_tokens"])

    def _take(self, batch: Mapping[int, list[GenerationChunk]]) -> int:
        """Record the chunks; return the number of their tokens."""
        tokens = 0
        for index, chunks in batch.items():
            choice = self.choices[index]
            for chunk in chunks:
                if not choice.num_input_tokens:
                    choice.num_input_tokens = chunk.num_input_tokens or 0
                    self._context.answered_by(chunk.model, chunk.version, chunk.reason)
                tokens += chunk.num_output_tokens or 0
                choice.finish_reason = chunk.finish_reason or choice.finish_reason
                if not self._request.stream:
                    choice.parts.append(chunk.text)
                    choice.logprobs += chunk.logprobs or ()
            choice.num_output_tokens += sum(chunk.num_output_tokens or 0 for chunk in chunks)
        return tokens

    async def _read_chunks(self, index: int) -> None:
        request, prompt = self._request, self._request.prompts[index]
        put = self._queue.put
        text, messages = (prompt, None) if isinstance(prompt, str) else (None, prompt)
        key = Prompt(text, messages, {}, True).prefix_key()
        # For a route, only the chunks name the engine to watch.
        streams = request.stream or not request.engine
        watch = EngineWatch(self._client, request.engine, key, streams=streams)
        watching = asyncio.create_task(self._watch(index, watch))
        try:
            chunks = self._client.generate(
                request.model,
                text,
                messages=messages,
                sampling_parameters=request.sampling,
                stream=streams,
                parameters=request.route.parameters,
                deadline_ms=max(1.0, (self._deadline - time.monotonic()) * 1000),
                request_id=self._context.request_id,
            )
            async with contextlib.aclosing(chunks):
                async for chunk in chunks:
                    watch.on_chunk()
                    watch.model = chunk.model
                    await put((index, chunk))
        except Exception as error:
            await put((index, error))
        else:
            await put((index, None))
        finally:
            watching.cancel()

    async def _watch(self, index: int, watch: EngineWatch) -> None:
        await self._queue.put((index, await watch.until_dead()))

    def _error(self, failure: Exception) -> ApiError:
        if not isinstance(failure, ClientError):
            raise failure
        return from_client_error(failure, self._request.renamed)
