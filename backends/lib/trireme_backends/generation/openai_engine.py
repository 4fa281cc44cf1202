"""An engine elsewhere that speaks OpenAI's protocol: vLLM's server, Text Generation Inference, TensorRT-LLM's.

One thread holds all connections in an event loop; they are kept and used again. To cancel a request is to close its
connection, upon which each of these engines frees its place.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import threading
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

import aiohttp

from trireme_backends.errors import ModelError
from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import EngineState, Sink
from trireme_backends.generation.errors import CancelledError, EngineError, GenerationError
from trireme_backends.generation.openai_config import OpenAIConfig
from trireme_backends.generation.openai_protocol import (
    StreamedAnswer,
    error_of_response,
    event_payloads,
    request_body,
)

# Of the health check and the list of models, at load.
_CHECK_DEADLINE_SECONDS = 10.0
_DONE = "[DONE]"

_Result = TypeVar("_Result")


class OpenAIEngine:
    """An ``Engine`` whose model is at ``config.base_url``.

    Raises:
        ModelError: it cannot be reached, is not healthy, refuses the key, or does not serve the model.
    """

    def __init__(self, config: OpenAIConfig) -> None:
        self._config = config
        self._running: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="openai-engine", daemon=True)
        self._thread.start()
        try:
            self._session = self._call(self._open())
            self._call(self._check())
        except BaseException:
            self.close()
            raise

    def submit(self, request: GenerationRequest, sink: Sink) -> _Streaming:
        """See ``Engine``."""
        body = request_body(request, self._config.dialect, self._config.model)
        path = "chat/completions" if request.messages is not None else "completions"
        return _Streaming(asyncio.run_coroutine_threadsafe(self._generate(path, body, request, sink), self._loop))

    def state(self) -> EngineState:
        """What runs there for us; what waits there it does not tell."""
        return EngineState(running=len(self._running), waiting=0)

    def close(self) -> None:
        """End what runs, and the connections."""
        if self._loop.is_closed():
            return
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _open(self) -> aiohttp.ClientSession:
        config = self._config
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=config.max_connections, keepalive_timeout=60.0),
            headers={"Authorization": f"Bearer {config.api_key}"} if config.api_key else {},
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=config.connect_timeout_seconds, sock_read=config.read_timeout_seconds
            ),
            # A line is an event, and an event may hold a whole answer.
            read_bufsize=1 << 20,
        )

    async def _end(self) -> None:
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        if hasattr(self, "_session"):
            await self._session.close()

    async def _check(self) -> None:
        """Whether the engine is healthy and serves the model."""
        config, deadline = self._config, aiohttp.ClientTimeout(total=_CHECK_DEADLINE_SECONDS)
        try:
            async with self._session.get(config.health_url, timeout=deadline) as response:
                if response.status != 200:
                    raise ModelError(f"{config.health_url} answers {response.status}: the engine is not healthy")
            async with self._session.get(config.url("models"), timeout=deadline) as response:
                if response.status != 200:
                    refusal = error_of_response(response.status, await response.text(), config.dialect)
                    raise ModelError(f"{config.url('models')}: {refusal}")
                served = _model_names(await response.json(content_type=None))
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            raise ModelError(f"{config.base_url} cannot be reached: {_reason(error)}") from None
        if config.model not in served:
            listed = ", ".join(sorted(served)) or "none"
            raise ModelError(f"{config.base_url} does not serve '{config.model}'; it serves: {listed}")

    async def _generate(self, path: str, body: Mapping[str, Any], request: GenerationRequest, sink: Sink) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._stream(path, body, request, sink)
        except GenerationError as error:
            sink(error)
        except asyncio.CancelledError:
            sink(CancelledError("nobody waits for the answer"))
            raise
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            sink(EngineError(f"{self._config.base_url}: {_reason(error)}"))
        finally:
            self._running.discard(task)

    async def _stream(self, path: str, body: Mapping[str, Any], request: GenerationRequest, sink: Sink) -> None:
        url, answer = self._config.url(path), StreamedAnswer(request, self._config.dialect)
        # A redirect would take the key elsewhere.
        async with self._session.post(url, json=body, allow_redirects=False) as response:
            if response.status != 200:
                raise await self._refusal(response, body, request)
            async with contextlib.aclosing(event_payloads(response.content)) as payloads:
                async for payload in payloads:
                    if payload == _DONE:
                        # Nothing comes after it, but only a body that was read to its end frees its connection.
                        continue
                    piece = answer.read(json.loads(payload))
                    if piece is not None:
                        sink(piece)
        sink(answer.last())

    async def _refusal(
        self, response: aiohttp.ClientResponse, body: Mapping[str, Any], request: GenerationRequest
    ) -> GenerationError:
        text, dialect = await response.text(errors="replace"), self._config.dialect
        counted = None
        if dialect.count_path and dialect.context_error and dialect.context_error.search(text):
            prompt = {key: body[key] for key in ("model", "prompt", "messages") if key in body}
            async with self._session.post(self._config.root_url + dialect.count_path, json=prompt) as counting:
                counted = (await counting.json())["count"] if counting.status == 200 else None
        return error_of_response(response.status, text, dialect, request.sampling.max_tokens, counted)


class _Streaming:
    """A ``Generation`` on its way."""

    def __init__(self, future: concurrent.futures.Future[None]) -> None:
        self._future = future

    def cancel(self) -> None:
        self._future.cancel()


def _model_names(document: Any) -> set[str]:
    """Of a list of models, or of the one model that Text Generation Inference documents."""
    entries = document.get("data", [document]) if isinstance(document, dict) else []
    return {str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry}


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "it did not answer in time"
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "it closed the connection in the middle of its answer"
    return str(error) or type(error).__name__
