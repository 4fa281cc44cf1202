"""The tensors of a generation model: those of Triton's vLLM backend, and ``messages``.

A request has exactly one of ``text_input`` and ``messages``; ``messages`` is a JSON list of OpenAI chat messages, which
the engine renders with the model's own chat template. Models are decoupled: with ``stream`` each response is the next
chunk of the text; without it there is one response.

Source: triton vllm_backend, ``_get_input_tensors`` and ``_create_response``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.generation.engine import Chunk
from trireme_backends.generation.errors import InvalidRequestError, UnsupportedError
from trireme_backends.generation.sampling import SamplingParameters

# Tokens can be counted only after the whole text is read, so larger prompts, which no model's context holds, are
# rejected by size.
MAX_PROMPT_BYTES = 4 << 20

# name -> (Triton's datatype, whether it is optional); all have the shape [1].
INPUTS: dict[str, tuple[str, bool]] = {
    "text_input": ("TYPE_STRING", True),
    "messages": ("TYPE_STRING", True),
    "stream": ("TYPE_BOOL", True),
    "sampling_parameters": ("TYPE_STRING", True),
    "exclude_input_in_output": ("TYPE_BOOL", True),
    "return_finish_reason": ("TYPE_BOOL", True),
    "return_cumulative_logprob": ("TYPE_BOOL", True),
    "return_logprobs": ("TYPE_BOOL", True),
    "return_num_input_tokens": ("TYPE_BOOL", True),
    "return_num_output_tokens": ("TYPE_BOOL", True),
}
# How OpenAI and vLLM write the logarithm of zero: JSON has no infinity.
_MIN_LOGPROB = -9999.0
# name -> Triton's datatype; all have the shape [-1]. All but the first are sent only if ``return_<name>`` is true.
OUTPUTS: dict[str, str] = {
    "text_output": "TYPE_STRING",
    "finish_reason": "TYPE_STRING",
    "cumulative_logprob": "TYPE_FP32",
    "logprobs": "TYPE_STRING",
    "num_input_tokens": "TYPE_UINT32",
    "num_output_tokens": "TYPE_UINT32",
}

Tensor = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message; ``role`` is ``system``, ``user``, ``assistant`` or any other that the template supports."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One generation request.

    Attributes:
        prompt, messages: exactly one is set.
        stream: whether to respond in chunks.
        echo: whether the output starts with the prompt; never with ``stream`` or ``messages``.
        outputs: the names of the outputs to send.
    """

    request_id: str
    prompt: str | None
    messages: tuple[Message, ...] | None
    stream: bool
    sampling: SamplingParameters
    echo: bool
    outputs: frozenset[str]


def read_request(request_id: str, tensor: Callable[[str], Tensor | None]) -> GenerationRequest:
    """Read the inputs; ``tensor`` returns an input by name, or None if the request does not have it.

    Raises:
        InvalidRequestError, UnsupportedError: an input is invalid; names it.
    """
    text, chat = _text("text_input", tensor("text_input")), _text("messages", tensor("messages"))
    if (text is None) == (chat is None):
        given = "both" if text is not None else "none"
        raise InvalidRequestError(f"got {given} of text_input and messages; send exactly one", param="prompt")
    if text == "":
        raise InvalidRequestError("is empty; send at least one character", param="prompt")
    stream = _flag("stream", tensor("stream"), False)
    exclude = _flag("exclude_input_in_output", tensor("exclude_input_in_output"), stream or chat is not None)
    if not exclude and (stream or chat is not None):
        raise InvalidRequestError(
            "must be true with stream or messages, whose output has no place for the input",
            param="exclude_input_in_output",
        )
    outputs = {name for name in OUTPUTS if _flag(f"return_{name}", tensor(f"return_{name}"), name == "text_output")}
    return GenerationRequest(
        request_id=request_id,
        prompt=text,
        messages=None if chat is None else read_messages(chat),
        stream=stream,
        sampling=SamplingParameters.parse(_text("sampling_parameters", tensor("sampling_parameters")) or ""),
        echo=not exclude,
        outputs=frozenset(outputs),
    )


def read_messages(text: str) -> tuple[Message, ...]:
    """Parse OpenAI chat messages; a ``content`` of several text parts is joined.

    Raises:
        InvalidRequestError: ``text`` is not a JSON list of messages.
        UnsupportedError: a message has images, tools or other content that is not text.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not JSON: {error}", param="messages") from None
    if not isinstance(document, list) or not document:
        raise InvalidRequestError("must be a list of at least one message", param="messages")
    return tuple(_message(index, entry) for index, entry in enumerate(document))


def response_tensors(request: GenerationRequest, chunk: Chunk) -> list[tuple[str, Tensor]]:
    """The outputs of one chunk, or of the complete text if the request does not stream."""
    text = (request.prompt or "") + chunk.text if request.echo else chunk.text
    logprobs = [
        {
            str(one.token_id): {
                "logprob": max(_MIN_LOGPROB, one.logprob),
                "rank": one.rank,
                "decoded_token": one.text,
            }
            for one in token
        }
        for token in chunk.logprobs
    ]
    values: dict[str, Tensor] = {
        "text_output": _bytes(text),
        "finish_reason": _bytes(chunk.finish_reason or "None"),
        "cumulative_logprob": np.array([chunk.cumulative_logprob], np.float32),
        "logprobs": _bytes(json.dumps(logprobs)),
        "num_input_tokens": np.array([chunk.num_input_tokens], np.uint32),
        "num_output_tokens": np.array([chunk.num_output_tokens], np.uint32),
    }
    return [(name, value) for name, value in values.items() if name in request.outputs]


def _message(index: int, entry: Any) -> Message:
    place = f"messages[{index}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
        raise InvalidRequestError("must be an object with role and content", param=place)
    if others := sorted(key for key, value in entry.items() if key not in ("role", "content", "name") and value):
        raise UnsupportedError("unknown key; supported: role, name, content", param=f"{place}.{others[0]}")
    content = entry.get("content")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise UnsupportedError("only parts of type text are supported", param=f"{place}.content")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise InvalidRequestError("must be a string", param=f"{place}.content")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise InvalidRequestError("contains an unpaired surrogate; send valid Unicode", param=f"{place}.content")
    return Message(entry["role"], content)


def _text(name: str, tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    value: bytes = _single(name, tensor)
    param = "prompt" if name == "text_input" else name
    if len(value) > MAX_PROMPT_BYTES:
        raise InvalidRequestError(f"has {len(value)} bytes; the maximum is {MAX_PROMPT_BYTES}", param=param)
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            f"is not UTF-8: byte 0x{value[error.start]:02x} at position {error.start}", param=param
        ) from None


def _flag(name: str, tensor: Tensor | None, default: bool) -> bool:
    return default if tensor is None else bool(_single(name, tensor))


def _single(name: str, tensor: Tensor) -> Any:
    if tensor.size != 1:
        raise InvalidRequestError(f"has {tensor.size} elements; send exactly one", param=name)
    return tensor.reshape(-1)[0]


def _bytes(text: str) -> Tensor:
    return np.array([text.encode()], dtype=np.object_)
