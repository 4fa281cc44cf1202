"""A language model of Triton's LLM contract for the fake server: any function from a prompt to pieces of text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from trireme_client.tensors import Array

_TEXTS = ("text_input", "messages", "sampling_parameters")
_FLAGS = ("stream", "exclude_input_in_output", "return_finish_reason", "return_num_input_tokens",
          "return_num_output_tokens", "return_logprobs")  # fmt: skip
GENERATION_TENSORS: Mapping[str, Any] = {
    "inputs": {**{name: ("BYTES", [1]) for name in _TEXTS}, **{name: ("BOOL", [1]) for name in _FLAGS}},
    "optional_inputs": _TEXTS + _FLAGS,
    "outputs": {
        **{name: ("BYTES", [1]) for name in ("text_output", "finish_reason", "logprobs")},
        **{name: ("UINT32", [1]) for name in ("num_input_tokens", "num_output_tokens")},
    },
}


def generate(answer: Callable[[str], Iterable[str]], inputs: Mapping[str, Array]) -> Iterator[dict[str, Any]]:
    """The model's answers: one a piece and one that tells why it ended; one for all where ``stream`` is false."""
    prompt = inputs["messages" if "messages" in inputs else "text_input"][0].decode()
    sampling = json.loads(inputs["sampling_parameters"][0]) if "sampling_parameters" in inputs else {}
    most = sampling.get("max_tokens")
    count = 0
    told = []
    for piece in itertools.islice(answer(prompt), most):
        count += 1
        if inputs["stream"][0]:
            yield _outputs(piece, "", prompt, 1)
        else:
            told.append(piece)
    yield _outputs("".join(told), "length" if count == most else "stop", prompt, len(told))


def _outputs(text: str, finish_reason: str, prompt: str, num_output_tokens: int) -> dict[str, Any]:
    texts = {"text_output": text, "finish_reason": finish_reason, "logprobs": ""}
    return {
        **{name: np.array([value.encode()], object) for name, value in texts.items()},
        "num_input_tokens": [len(prompt.split())],
        "num_output_tokens": [num_output_tokens],
    }
