"""The tensors of a generation: those of Triton's vLLM backend, and ``messages``.

Exactly one of ``text_input`` and ``messages`` is given; ``messages`` is a JSON list of OpenAI chat messages, of which
the engine makes a prompt by the model's own chat template. A model is decoupled: where ``stream`` is true the text
comes in pieces, each with what is new; else in one.

Source: triton vllm_backend, ``_get_input_tensors`` and ``_create_response``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trireme_backends.generation.engine import Piece
from trireme_backends.generation.errors import InvalidRequestError, UnsupportedError
from trireme_backends.generation.sampling import SamplingParameters

# Characters are read before tokens can be counted: more than any model's context is refused by its size.
MOST_PROMPT_BYTES = 4 << 20

# name -> (Triton's datatype, whether it may be left out); all have the shape [1].
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
# name -> Triton's datatype; all have the shape [-1]. All but the first are sent where ``return_<name>`` is true.
# How OpenAI and vLLM write the logarithm of nothing: JSON has no infinity.
_LEAST_LOGPROB = -9999.0
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
    """One message of a chat; ``role`` is ``system``, ``user``, ``assistant`` or what else the template knows."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What a caller asks for.

    Attributes:
        prompt, messages: exactly one is set.
        stream: in pieces.
        echo: the prompt stands before the answer; never with ``stream`` or ``messages``.
        wanted: the outputs to send.
    """

    request_id: str
    prompt: str | None
    messages: tuple[Message, ...] | None
    stream: bool
    sampling: SamplingParameters
    echo: bool
    wanted: frozenset[str]


def read_request(request_id: str, tensor: Callable[[str], Tensor | None]) -> GenerationRequest:
    """Read the inputs; ``tensor`` gives one by name, or None where it was left out.

    Raises:
        InvalidRequestError, UnsupportedError: an input is wrong; names it.
    """
    text, chat = _text("text_input", tensor("text_input")), _text("messages", tensor("messages"))
    if (text is None) == (chat is None):
        both = "both are" if text is not None else "none is"
        raise InvalidRequestError(f"one of text_input and messages is needed, and {both} given", param="prompt")
    if text == "":
        raise InvalidRequestError("is empty; write a text to continue", param="prompt")
    stream = _flag("stream", tensor("stream"), False)
    exclude = _flag("exclude_input_in_output", tensor("exclude_input_in_output"), stream or chat is not None)
    if not exclude and (stream or chat is not None):
        raise InvalidRequestError(
            "cannot be false with stream or messages: there is no place for the input",
            param="exclude_input_in_output",
        )
    wanted = {name for name in OUTPUTS if _flag(f"return_{name}", tensor(f"return_{name}"), name == "text_output")}
    return GenerationRequest(
        request_id=request_id,
        prompt=text,
        messages=None if chat is None else read_messages(chat),
        stream=stream,
        sampling=SamplingParameters.parse(_text("sampling_parameters", tensor("sampling_parameters")) or ""),
        echo=not exclude,
        wanted=frozenset(wanted),
    )


def read_messages(text: str) -> tuple[Message, ...]:
    """OpenAI chat messages; a ``content`` in parts is joined, as far as the parts are text.

    Raises:
        InvalidRequestError: not such a list. UnsupportedError: images, tools and what else is no text.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestError(f"not JSON: {error}", param="messages") from None
    if not isinstance(document, list) or not document:
        raise InvalidRequestError("must be a list of at least one message", param="messages")
    return tuple(_message(index, entry) for index, entry in enumerate(document))


def response_tensors(request: GenerationRequest, piece: Piece) -> list[tuple[str, Tensor]]:
    """The outputs of one piece; of the whole answer where the request does not stream."""
    text = (request.prompt or "") + piece.text if request.echo else piece.text
    logprobs = [
        {
            str(one.token_id): {
                "logprob": max(_LEAST_LOGPROB, one.logprob),
                "rank": one.rank,
                "decoded_token": one.text,
            }
            for one in token
        }
        for token in piece.logprobs
    ]
    values: dict[str, Tensor] = {
        "text_output": _bytes(text),
        "finish_reason": _bytes(piece.finish_reason or "None"),
        "cumulative_logprob": np.array([piece.cumulative_logprob], np.float32),
        "logprobs": _bytes(json.dumps(logprobs)),
        "num_input_tokens": np.array([piece.num_input_tokens], np.uint32),
        "num_output_tokens": np.array([piece.num_output_tokens], np.uint32),
    }
    return [(name, value) for name, value in values.items() if name in request.wanted]


def _message(index: int, entry: Any) -> Message:
    place = f"messages[{index}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("role"), str):
        raise InvalidRequestError("must be an object with role and content", param=place)
    if others := sorted(key for key, value in entry.items() if key not in ("role", "content", "name") and value):
        raise UnsupportedError("only role, name and content are taken", param=f"{place}.{others[0]}")
    content = entry.get("content")
    if isinstance(content, list):
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
                raise UnsupportedError("only parts of type text are taken", param=f"{place}.content")
        content = "".join(part["text"] for part in content)
    if not isinstance(content, str):
        raise InvalidRequestError("must be a text", param=f"{place}.content")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise InvalidRequestError("holds half a surrogate pair, which is no text", param=f"{place}.content")
    return Message(entry["role"], content)


def _text(name: str, tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    value: bytes = _single(name, tensor)
    param = "prompt" if name == "text_input" else name
    if len(value) > MOST_PROMPT_BYTES:
        raise InvalidRequestError(f"has {len(value)} bytes; at most {MOST_PROMPT_BYTES} are taken", param=param)
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
        raise InvalidRequestError(f"has {tensor.size} elements; one is taken", param=name)
    return tensor.reshape(-1)[0]


def _bytes(text: str) -> Tensor:
    return np.array([text.encode()], dtype=np.object_)
