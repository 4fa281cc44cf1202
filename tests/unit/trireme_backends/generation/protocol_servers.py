"""Fake servers with the published APIs of Text Generation Inference and TensorRT-LLM.

Written field by field from Text Generation Inference's OpenAPI document and TensorRT-LLM's protocol module. They
validate requests as the real servers do, and send scripted responses.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import web

from tests.deadlines import scaled


@dataclass(slots=True)
class Script:
    """The script of the next responses.

    Attributes:
        chunks: the text, one string per token.
        finish_reason: the engine's own finish reason.
        prompt_tokens: the usage of the prompt.
        rejection: a status and a body to send instead of a stream.
        fault_after: number of chunks before the engine fails; None: it does not fail.
        seconds_per_chunk: delay before each chunk.
    """

    chunks: Sequence[str] = (" Paris", ".")
    finish_reason: str = "stop"
    prompt_tokens: int = 5
    rejection: tuple[int, Any] | None = None
    fault_after: int | None = None
    seconds_per_chunk: float = 0.0


@dataclass(slots=True)
class Received:
    """One request: its path, its body, and whether its caller disconnected before the end."""

    path: str
    body: Mapping[str, Any]
    connection: object
    disconnected: threading.Event = field(default_factory=threading.Event)


class ProtocolServer:
    """A server in its own thread, on a free port of the loopback interface.

    Attributes:
        url: its address, without a path.
        script: the script of the next responses.
        received: the generation requests, in order.
    """

    def __init__(self, api_key: str = "") -> None:
        self.script = Script()
        self.received: list[Received] = []
        self.healthy = True
        self._api_key = api_key
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> ProtocolServer:
        self._thread.start()
        self.url = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(scaled(10))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(scaled(10))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(scaled(10))
        self._loop.close()

    async def _start(self) -> str:
        application = web.Application(middlewares=[self._authorize])
        application.router.add_get("/health", self._health)
        application.router.add_get("/v1/models", self._models)
        application.router.add_post("/v1/chat/completions", self._generate)
        application.router.add_post("/v1/completions", self._generate)
        self._runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        return f"http://{host}:{port}"

    @web.middleware
    async def _authorize(self, request: web.Request, handler: Any) -> web.StreamResponse:
        if self._api_key and request.headers.get("Authorization") != f"Bearer {self._api_key}":
            return web.Response(status=401)
        response: web.StreamResponse = await handler(request)
        return response

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)

    async def _models(self, _: web.Request) -> web.Response:
        return web.json_response(self.model_list())

    async def _generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        received = Received(request.path, body, request.transport)
        self.received.append(received)
        rejection = self.script.rejection or self.check(request.path, body)
        if rejection:
            status, error = rejection
            return web.json_response(error, status=status)
        try:
            return await self._stream(request, body)
        except (asyncio.CancelledError, ConnectionError):
            received.disconnected.set()
            raise

    async def _stream(self, request: web.Request, body: Mapping[str, Any]) -> web.StreamResponse:
        script, chat = self.script, "chat" in request.path
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for event in self.opening(chat):
            await response.write(event)
        for number, chunk in enumerate(script.chunks):
            await asyncio.sleep(script.seconds_per_chunk)
            if number == script.fault_after:
                fault = self.fault()
                if fault is None:
                    assert request.transport is not None
                    request.transport.abort()
                    return response
                await response.write(fault + b"data: [DONE]\n\n")
                return response
            last = number == len(script.chunks) - 1
            await response.write(self.chunk(chat, chunk, last=last, body=body))
        if (body.get("stream_options") or {}).get("include_usage", False):
            await response.write(self.usage_event(chat))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    # The differences between engines.

    def model_list(self) -> Any:
        raise NotImplementedError

    def check(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any] | None:
        """The status and body with which the engine would reject the request; None if it would accept it."""
        raise NotImplementedError

    def opening(self, chat: bool) -> list[bytes]:
        """The events before the first chunk."""
        raise NotImplementedError

    def chunk(self, chat: bool, text: str, *, last: bool, body: Mapping[str, Any]) -> bytes:
        raise NotImplementedError

    def usage_event(self, chat: bool) -> bytes:
        raise NotImplementedError

    def fault(self) -> bytes | None:
        """The event of an engine that fails during a stream; None: it cuts the connection."""
        raise NotImplementedError

    def usage(self) -> dict[str, int]:
        completion = len(self.script.chunks)
        prompt = self.script.prompt_tokens
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class TgiServer(ProtocolServer):
    """Text Generation Inference 2.4: its OpenAPI document's ``/v1`` paths."""

    _CHAT = frozenset(
        {
            "messages",
            "model",
            "frequency_penalty",
            "guideline",
            "logit_bias",
            "logprobs",
            "max_tokens",
            "n",
            "presence_penalty",
            "response_format",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "temperature",
            "tool_choice",
            "tool_prompt",
            "tools",
            "top_logprobs",
            "top_p",
        }
    )
    _COMPLETION = frozenset(
        {
            "prompt",
            "model",
            "frequency_penalty",
            "max_tokens",
            "repetition_penalty",
            "seed",
            "stop",
            "stream",
            "suffix",
            "temperature",
            "top_p",
        }
    )

    def model_list(self) -> Any:
        return {"object": "list", "data": [self._model()]}

    @staticmethod
    def _model() -> dict[str, Any]:
        return {"id": "HuggingFaceTB/SmolLM2", "object": "model", "created": 0, "owned_by": "HuggingFaceTB/SmolLM2"}

    def check(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any] | None:
        known = self._CHAT if "chat" in path else self._COMPLETION
        # The real server ignores unknown members; the engine must not send any.
        assert set(body) <= known, set(body) - known
        if len(body.get("stop") or ()) > 4:
            return 422, {
                "error": "Input validation error: `stop` supports up to 4 stop sequences. Given: 5",
                "error_type": "validation",
            }
        form = body.get("response_format")
        assert form is None or set(form) == {"type", "value"}
        return None

    def opening(self, _: bool) -> list[bytes]:
        return []

    def chunk(self, chat: bool, text: str, *, last: bool, body: Mapping[str, Any]) -> bytes:
        head = {"id": "", "created": int(time.time()), "model": "HuggingFaceTB/SmolLM2"}
        head |= {"system_fingerprint": "2.4.1-native"}
        if chat:
            reason = self.script.finish_reason.replace("eos_token", "stop") if last else None
            delta = {"role": "assistant", "content": text}
            logprobs = None
            if body.get("logprobs"):
                logprobs = {"content": [{"token": text, "logprob": -0.5, "top_logprobs": []}]}
            choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
            return _event({"object": "chat.completion.chunk", **head, "choices": [choice]})
        reason = self.script.finish_reason if last else ""
        choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
        usage = {"usage": self.usage()} if last else {}
        return _event({"object": "text_completion", **head, "choices": [choice], **usage})

    def usage_event(self, chat: bool) -> bytes:
        assert chat  # completion requests do not support stream_options
        head = {"object": "chat.completion.chunk", "id": "", "created": 0, "model": "HuggingFaceTB/SmolLM2"}
        return _event({**head, "system_fingerprint": "2.4.1-native", "choices": [], "usage": self.usage()})

    def fault(self) -> bytes | None:
        return _event({"error": "Request failed during generation: Server error", "error_type": "generation"})


class TrtllmServer(ProtocolServer):
    """TensorRT-LLM's ``trtllm-serve``."""

    _SHARED = frozenset(
        {
            "model",
            "frequency_penalty",
            "logit_bias",
            "logprobs",
            "n",
            "presence_penalty",
            "response_format",
            "seed",
            "stop",
            "stream",
            "stream_options",
            "temperature",
            "top_p",
            "user",
            "best_of",
            "use_beam_search",
            "top_k",
            "top_p_min",
            "min_p",
            "repetition_penalty",
            "length_penalty",
            "early_stopping",
            "stop_token_ids",
            "include_stop_str_in_output",
            "ignore_eos",
            "min_tokens",
            "skip_special_tokens",
            "spaces_between_special_tokens",
            "truncate_prompt_tokens",
            "lora_request",
            "max_tokens",
            "add_special_tokens",
        }
    )
    _CHAT = _SHARED | {"messages", "top_logprobs", "max_completion_tokens", "tools", "tool_choice", "chat_template"}
    _COMPLETION = _SHARED | {"prompt", "echo", "suffix", "detokenize"}

    def model_list(self) -> Any:
        card = {"id": "smollm2", "object": "model", "created": int(time.time()), "owned_by": "tensorrt_llm"}
        return {"object": "list", "data": [card]}

    def check(self, path: str, body: Mapping[str, Any]) -> tuple[int, Any] | None:
        known = self._CHAT if "chat" in path else self._COMPLETION
        unknown = set(body) - known
        if unknown:
            return 400, {"error": f"[{{'type': 'extra_forbidden', 'loc': ('body', '{min(unknown)}')}}]"}
        if "model" not in body:
            return 400, {"error": "[{'type': 'missing', 'loc': ('body', 'model')}]"}
        form = body.get("response_format") or {}
        if form.get("type") == "json_schema" and "json_schema" not in form:
            return 400, self.flat_error("response_format.json_schema is required")
        return None

    @staticmethod
    def flat_error(message: str, kind: str = "BadRequestError", code: int = 400) -> dict[str, Any]:
        return {"object": "error", "message": message, "type": kind, "param": None, "code": code}

    def opening(self, chat: bool) -> list[bytes]:
        if not chat:
            return []
        # It omits null members, and ends this one event with a space.
        choice = {"index": 0, "delta": {"role": "assistant"}}
        return [_event({**self._head(chat), "choices": [choice]}).replace(b"\n\n", b" \n\n")]

    @staticmethod
    def _head(chat: bool) -> dict[str, Any]:
        name, kind = ("chatcmpl-7", "chat.completion.chunk") if chat else ("cmpl-7", "text_completion")
        return {"id": name, "object": kind, "created": int(time.time()), "model": "smollm2"}

    def chunk(self, chat: bool, text: str, *, last: bool, body: Mapping[str, Any]) -> bytes:
        reason = {"finish_reason": self.script.finish_reason} if last else {}
        if chat:
            choice: dict[str, Any] = {"index": 0, "delta": {"content": text}, **reason}
            if body.get("logprobs"):
                top = [{"token": text, "logprob": -0.25, "bytes": list(text.encode())}]
                top = top if body.get("top_logprobs") else []
                entry = {"token": text, "logprob": -0.25, "bytes": list(text.encode()), "top_logprobs": top}
                choice["logprobs"] = {"content": [entry]}
            return _event({**self._head(chat), "choices": [choice]})
        choice = {"index": 0, "text": text, "token_ids": None, "logprobs": None, "finish_reason": None, **reason}
        if body.get("logprobs"):
            choice["logprobs"] = {
                "text_offset": [0],
                "token_logprobs": [-0.25],
                "tokens": [text],
                "top_logprobs": [{text: -0.25}],
            }
        return _event({**self._head(chat), "choices": [choice], "usage": None})

    def usage_event(self, chat: bool) -> bytes:
        usage = {**self.usage(), "prompt_tokens_details": {"cached_tokens": 0}}
        return _event({**self._head(chat), "choices": [], "usage": usage})

    def fault(self) -> bytes | None:
        return None


def _event(payload: Mapping[str, Any]) -> bytes:
    return f"data: {json.dumps(payload)}\n\n".encode()
