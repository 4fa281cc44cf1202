"""A remote engine with OpenAI's API: vLLM's server, Text Generation Inference or TensorRT-LLM's server.

One thread runs all connections in an event loop and reuses them. A request is cancelled by closing its connection, at
which all of these engines free its resources.
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

# For the health check and for the list of models, at load.
_CHECK_TIMEOUT_SECONDS = 10.0
_DONE = "[DONE]"

_Result = TypeVar("_Result")


class OpenAIEngine:
    """An ``Engine`` whose model is served at ``config.base_url``.

    Raises:
        ModelError: the engine is unreachable or unhealthy, rejects the key, or does not serve the model.
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

    def submit(self, request: GenerationRequest, sink: Sink) -> _Generation:
        """See ``Engine``."""
        body = request_body(request, self._config.dialect, self._config.model)
        path = "chat/completions" if request.messages is not None else "completions"
        return _Generation(asyncio.run_coroutine_threadsafe(self._generate(path, body, request, sink), self._loop))

    def state(self) -> EngineState:
        """This backend's requests; the engine does not report how many of them wait."""
        return EngineState(running=len(self._running), waiting=0)

    def close(self) -> None:
        """See ``Engine``; also closes the connections."""
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
            # A line is an event, and an event may contain a complete response.
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
        """Raise ``ModelError`` unless the engine is healthy and serves the model."""
        config, timeout = self._config, aiohttp.ClientTimeout(total=_CHECK_TIMEOUT_SECONDS)
        try:
            async with self._session.get(config.health_url, timeout=timeout) as response:
                if response.status != 200:
                    raise ModelError(f"{config.health_url}: the engine is not healthy, it returned {response.status}")
            async with self._session.get(config.url("models"), timeout=timeout) as response:
                if response.status != 200:
                    error = error_of_response(response.status, await response.text(), config.dialect)
                    raise ModelError(f"{config.url('models')}: {error}")
                served = _model_names(await response.json(content_type=None))
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as failure:
            raise ModelError(f"{config.base_url} is not reachable: {_reason(failure)}") from None
        if config.model not in served:
            listed = ", ".join(sorted(served)) or "none"
            raise ModelError(f"{config.base_url} does not serve '{config.model}'; available: {listed}")

    async def _generate(self, path: str, body: Mapping[str, Any], request: GenerationRequest, sink: Sink) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            await self._stream(path, body, request, sink)
        except GenerationError as error:
            sink(error)
        except asyncio.CancelledError:
            sink(CancelledError("the request was cancelled"))
            raise
        except (aiohttp.ClientError, asyncio.TimeoutError, ValueError) as error:
            sink(EngineError(f"{self._config.base_url}: {_reason(error)}"))
        finally:
            self._running.discard(task)

    async def _stream(self, path: str, body: Mapping[str, Any], request: GenerationRequest, sink: Sink) -> None:
        url, stream = self._config.url(path), StreamedAnswer(request, self._config.dialect)
        # A redirect would send the key to another host.
        async with self._session.post(url, json=body, allow_redirects=False) as response:
            if response.status != 200:
                raise await self._response_error(response, body, request)
            async with contextlib.aclosing(event_payloads(response.content)) as payloads:
                async for payload in payloads:
                    if payload == _DONE:
                        # The last event, but a connection is reused only if its body is read to the end.
                        continue
                    chunk = stream.read(json.loads(payload))
                    if chunk is not None:
                        sink(chunk)
        sink(stream.last())

    async def _response_error(
        self, response: aiohttp.ClientResponse, body: Mapping[str, Any], request: GenerationRequest
    ) -> GenerationError:
        text, dialect = await response.text(errors="replace"), self._config.dialect
        counted = None
        if dialect.count_path and dialect.context_error and dialect.context_error.search(text):
            prompt = {key: body[key] for key in ("model", "prompt", "messages") if key in body}
            async with self._session.post(self._config.root_url + dialect.count_path, json=prompt) as counting:
                counted = (await counting.json())["count"] if counting.status == 200 else None
        return error_of_response(response.status, text, dialect, request.sampling.max_tokens, counted)


class _Generation:
    """A ``Generation``."""

    def __init__(self, future: concurrent.futures.Future[None]) -> None:
        self._future = future

    def cancel(self) -> None:
        self._future.cancel()


def _model_names(document: Any) -> set[str]:
    """The ids in a list of models, or in the single model that Text Generation Inference's documentation describes."""
    entries = document.get("data", [document]) if isinstance(document, dict) else []
    return {str(entry["id"]) for entry in entries if isinstance(entry, dict) and "id" in entry}


def _reason(error: Exception) -> str:
    if isinstance(error, asyncio.TimeoutError):
        return "the engine did not respond in time"
    if isinstance(error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError):
        return "the engine closed the connection before the end of its response"
    return str(error) or type(error).__name__
