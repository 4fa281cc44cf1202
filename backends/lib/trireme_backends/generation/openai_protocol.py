"""OpenAI's protocol as engines speak it: requests as bodies, streams as pieces of an answer, errors."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any

from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.engine import Chunk
from trireme_backends.generation.errors import (
    ContextLengthError,
    EngineError,
    GenerationError,
    InvalidRequestError,
    OverloadedError,
)
from trireme_backends.generation.openai_dialects import Dialect
from trireme_backends.generation.sampling import SamplingParameters, StructuredOutputs
from trireme_backends.generation.text_stream import StopStringFilter

# Text Generation Inference sends an error's type, not its status, once the stream has begun.
_STATUS_OF_TYPE = {
    "validation": 422,
    "overloaded": 429,
    "generation": 424,
    "incomplete_generation": 500,
    "BadRequestError": 400,
}
_MOST_CHARACTERS = 500


def request_body(request: GenerationRequest, dialect: Dialect, model: str) -> dict[str, Any]:
    """The JSON body for ``/v1/chat/completions`` where the request has messages, else for ``/v1/completions``.

    The answer is always asked for as a stream, so that it can be ended at any piece.

    Raises:
        UnsupportedError: the engine lacks a parameter that is set.
    """
    chat = request.messages is not None
    endpoint = dialect.chat if chat else dialect.completion
    sampling = request.sampling
    supported = endpoint.parameters | {f"structured_outputs.{kind}" for kind in endpoint.structured}
    sampling.require(supported | ({"lora_name"} if dialect.adapters_are_models else set()), dialect.name)
    body: dict[str, Any] = {"model": sampling.lora_name or dialect.model_alias or model, "stream": True}
    if endpoint.usage is not None:
        body["stream_options"] = dict(endpoint.usage)
    if request.messages is not None:
        body["messages"] = [dataclasses.asdict(message) for message in request.messages]
    else:
        body["prompt"] = request.prompt
    for field in dataclasses.fields(SamplingParameters):
        value = getattr(sampling, field.name)
        if field.name in endpoint.parameters and (value != field.default or field.name in dialect.always):
            # Minus one turns it off too, which not all engines know.
            value = max(value, 0) if field.name == "top_k" else value
            body[field.name] = list(value) if isinstance(value, tuple) else value
    if sampling.structured_outputs is not None:
        outputs = sampling.structured_outputs
        body |= endpoint.structured[outputs.kind].body(_content(outputs))
    return body


def _content(outputs: StructuredOutputs) -> Any:
    if outputs.json is not None:
        return json.loads(outputs.json)
    return list(outputs.choice) if outputs.choice is not None else outputs.regex or outputs.grammar


async def event_payloads(lines: AsyncIterable[bytes]) -> AsyncGenerator[str, None]:
    """The ``data`` of each event, in order, and nothing else: comments are heartbeats.

    An event that the stream's end cut off is skipped.

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


class StreamedAnswer:
    """One answer as it comes in.

    The piece that ends it is kept until the stream ends, as engines send their usage after it.
    """

    def __init__(self, request: GenerationRequest, dialect: Dialect) -> None:
        self._dialect = dialect
        self._chat = request.messages is not None
        self._max_tokens = request.sampling.max_tokens
        self._stops = StopStringFilter(request.sampling.stop if dialect.keeps_stop_strings else ())
        self._num_input_tokens = 0
        self._counted_tokens = 0
        self._finish_reason: str | None = None
        self._last_text = ""
        self._last_tokens = 0

    def read(self, document: dict[str, Any]) -> Chunk | None:
        """What an event adds; None where that is nothing, or ends the answer.

        Raises:
            GenerationError: the event is an error.
        """
        if error := error_of_event(document, self._dialect, self._max_tokens):
            raise error
        choice: dict[str, Any] = next(iter(document.get("choices") or ()), {})
        text = self._stops.push(self._text(choice))
        tokens = self._new_tokens(document.get("usage"), has_choice=bool(choice))
        reason = choice.get("finish_reason")
        if reason:
            self._finish_reason = self._dialect.finish_reasons.get(reason, reason)
        if self._finish_reason:
            self._last_text += text
            self._last_tokens += tokens
            return None
        return Chunk(text, self._num_input_tokens, tokens) if text or tokens else None

    def last(self) -> Chunk:
        """The piece that ends the answer, once the stream has ended.

        Raises:
            EngineError: the stream broke off, or ended for a reason of the engine's own.
        """
        if self._finish_reason not in ("stop", "length"):
            ended = f"ended with '{self._finish_reason}'" if self._finish_reason else "broke off"
            raise EngineError(f"the answer of the {self._dialect.name} engine {ended}")
        text = self._last_text + self._stops.rest()
        reason = "stop" if self._stops.stopped else self._finish_reason
        return Chunk(text, self._num_input_tokens, self._last_tokens, reason)

    def _text(self, choice: dict[str, Any]) -> str:
        text = (choice.get("delta") or {}).get("content") if self._chat else choice.get("text")
        return text or ""

    def _new_tokens(self, usage: dict[str, int] | None, *, has_choice: bool) -> int:
        if usage:
            self._num_input_tokens = usage.get("prompt_tokens", 0)
            new = max(usage.get("completion_tokens", 0) - self._counted_tokens, 0)
        else:
            new = int(has_choice and self._dialect.one_token_per_chunk)
        self._counted_tokens += new
        return new


def error_of_response(
    status: int, body: str, dialect: Dialect, max_tokens: int | None = None, prompt_tokens: int | None = None
) -> GenerationError:
    """The error of a response without success, to a request for ``max_tokens``.

    Args:
        prompt_tokens: as the engine counted them; None: as the error says.
    """
    try:
        document = json.loads(body)
    except ValueError:
        document = {"message": body.strip()}
    return _error(status, document, dialect, max_tokens, prompt_tokens)


def error_of_event(document: dict[str, Any], dialect: Dialect, max_tokens: int | None) -> GenerationError | None:
    """The error in one event of a stream, if there is one."""
    if "error" not in document and document.get("object") != "error":
        return None
    return _error(500, document, dialect, max_tokens)


def _error(
    status: int, document: Any, dialect: Dialect, max_tokens: int | None, prompt_tokens: int | None = None
) -> GenerationError:
    # OpenAI and vLLM nest an object; TensorRT-LLM is flat or holds a text; Text Generation Inference holds a text.
    detail = document if isinstance(document, dict) else {}
    if isinstance(detail.get("error"), dict):
        detail = detail["error"]
    message = str(detail.get("message") or detail.get("error") or "no reason given")[:_MOST_CHARACTERS]
    if isinstance(detail.get("code"), int):
        status = detail["code"]
    else:
        status = _STATUS_OF_TYPE.get(str(detail.get("error_type") or detail.get("type")), status)
    found = dialect.context_error.search(message) if dialect.context_error else None
    if found:
        return ContextLengthError(prompt_tokens or int(found["prompt"]), max_tokens, int(found["context"]))
    if status in (429, 503):
        return OverloadedError(f"the {dialect.name} engine refuses for now: {message}")
    if status in (401, 403):
        return EngineError(f"the {dialect.name} engine does not accept our API key")
    if status in (400, 404, 413, 422):
        param = detail.get("param")
        return InvalidRequestError(message, param=param if isinstance(param, str) else None)
    return EngineError(f"the {dialect.name} engine returned {status}: {message}")
