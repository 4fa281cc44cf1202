"""Responses of chat and text completions in OpenAI's format, whole and as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

Json = dict[str, Any]
# Log probabilities of one choice: for each token the most likely ones by id, the chosen token first.
TokenLogprobs = Mapping[str, Mapping[str, Any]]

DONE = b"data: [DONE]\n\n"


@dataclass(slots=True)
class Choice:
    """One choice in progress."""

    prompt: str = ""
    parts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None
    num_input_tokens: int = 0
    num_output_tokens: int = 0

    @property
    def text(self) -> str:
        return "".join(self.parts)


def usage(choices: Sequence[Choice]) -> Json:
    """OpenAI's ``usage`` of all choices."""
    prompt = sum(choice.num_input_tokens for choice in choices)
    completion = sum(choice.num_output_tokens for choice in choices)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


class _ResponseFormat:
    """What both endpoints share.

    The constant parts of an event are encoded once per stream.
    """

    object_name: ClassVar[str]
    chunk_name: ClassVar[str]
    prefix: ClassVar[str]

    def __init__(self, model: str, *, include_usage: bool) -> None:
        self._head: Json = {"id": f"{self.prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        chunk = json.dumps({"object": self.chunk_name, **self._head})
        self._before = f'data: {chunk[:-1]}, "choices": [{{'
        self._after = '}], "usage": null}\n\n' if include_usage else "}]}\n\n"

    def whole(self, choices: Sequence[Choice]) -> Json:
        """The response of a request that does not stream."""
        choices_json = [{"index": index, **self._choice(choice)} for index, choice in enumerate(choices)]
        return {"object": self.object_name, **self._head, "choices": choices_json, "usage": usage(choices)}

    def usage_event(self, choices: Sequence[Choice]) -> bytes:
        """The last event before [DONE], for ``include_usage``."""
        return _event({"object": self.chunk_name, **self._head, "choices": [], "usage": usage(choices)})

    def first_events(self, choices: Sequence[Choice]) -> bytes:
        """Events before any text."""
        raise NotImplementedError

    def text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        """An event with more text."""
        raise NotImplementedError

    def last_event(self, index: int, finish_reason: str) -> bytes:
        """The last event of a choice."""
        raise NotImplementedError

    def _choice(self, choice: Choice) -> Json:
        raise NotImplementedError

    def _chunk(self, index: int, rest: str) -> bytes:
        return f'{self._before}"index": {index}, {rest}{self._after}'.encode()


class ChatFormat(_ResponseFormat):
    """``POST /v1/chat/completions``."""

    object_name, chunk_name, prefix = "chat.completion", "chat.completion.chunk", "chatcmpl"

    def first_events(self, choices: Sequence[Choice]) -> bytes:
        delta = '"delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null'
        return b"".join(self._chunk(index, delta) for index in range(len(choices)))

    def text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        encoded = json.dumps(self._logprobs(logprobs)) if logprobs else "null"
        return self._chunk(
            index, f'"delta": {{"content": {json.dumps(text)}}}, "logprobs": {encoded}, "finish_reason": null'
        )

    def last_event(self, index: int, finish_reason: str) -> bytes:
        return self._chunk(index, f'"delta": {{}}, "logprobs": null, "finish_reason": "{finish_reason}"')

    def _choice(self, choice: Choice) -> Json:
        return {
            "message": {"role": "assistant", "content": choice.text, "refusal": None},
            "logprobs": self._logprobs(choice.logprobs) if choice.logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[TokenLogprobs]) -> Json:
        content = []
        for token in tokens:
            chosen, *others = (_token(one) for one in token.values())
            # The chosen token is in top_logprobs only if it is one of the most likely.
            likeliest = sorted((chosen, *others), key=lambda one: -one["logprob"])[: len(others)]
            content.append({**chosen, "top_logprobs": likeliest})
        return {"content": content, "refusal": None}


class CompletionFormat(_ResponseFormat):
    """``POST /v1/completions``."""

    object_name, chunk_name, prefix = "text_completion", "text_completion", "cmpl"

    def __init__(self, model: str, *, include_usage: bool) -> None:
        super().__init__(model, include_usage=include_usage)
        self._lengths: dict[int, int] = {}

    def first_events(self, choices: Sequence[Choice]) -> bytes:
        echoed = ((index, choice.prompt) for index, choice in enumerate(choices) if choice.prompt)
        return b"".join(self.text_event(index, prompt, ()) for index, prompt in echoed)

    def text_event(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        offset = self._lengths.get(index, 0)
        self._lengths[index] = offset + len(text)
        encoded = json.dumps(self._logprobs(logprobs, offset)) if logprobs else "null"
        return self._chunk(index, f'"text": {json.dumps(text)}, "logprobs": {encoded}, "finish_reason": null')

    def last_event(self, index: int, finish_reason: str) -> bytes:
        return self._chunk(index, f'"text": "", "logprobs": null, "finish_reason": "{finish_reason}"')

    def _choice(self, choice: Choice) -> Json:
        return {
            "text": choice.prompt + choice.text,
            "logprobs": self._logprobs(choice.logprobs, 0) if choice.logprobs else None,
            "finish_reason": choice.finish_reason,
        }

    def _logprobs(self, tokens: Sequence[TokenLogprobs], offset: int) -> Json:
        logprobs: Json = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
        for token in tokens:
            alternatives = {str(one["decoded_token"]): one["logprob"] for one in token.values()}
            text, logprob = next(iter(alternatives.items()))
            for name, value in (("tokens", text), ("token_logprobs", logprob), ("top_logprobs", alternatives),
                                ("text_offset", offset)):  # fmt: skip
                logprobs[name].append(value)
            offset += len(text)
        return logprobs


def _token(one: Mapping[str, Any]) -> Json:
    text = str(one["decoded_token"])
    return {"token": text, "logprob": one["logprob"], "bytes": list(text.encode(errors="replace"))}


def _event(document: Json) -> bytes:
    return f"data: {json.dumps(document)}\n\n".encode()
