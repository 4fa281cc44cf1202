"""The tasks' tensors: what a sentence becomes, and what an answer means."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from trireme_client.errors import InvalidInputError, InvalidRequestError
from trireme_client.request import Parameter
from trireme_client.results import Classifications, Embeddings, Generation, InferResult, Route
from trireme_client.spec import ModelSpec
from trireme_client.tensors import Array

EMBED_MODEL = "text_embedding"
CLASSIFY_MODEL = "text_classification"
GENERATE_MODEL = "text_generation"

_TIERS = ("economy", "standard", "premium", "auto")


def text_inputs(texts: str | Sequence[str]) -> dict[str, object]:
    """One row a text."""
    rows = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(rows):
        if not isinstance(text, str):
            raise InvalidInputError("TEXT", f"element {index} is {text!r}; expected str")
    return {"TEXT": rows}


def route_parameters(
    tier: str | None, max_latency_ms: float | None, parameters: Mapping[str, Parameter]
) -> dict[str, Parameter]:
    """The router's request parameters."""
    told = dict(parameters)
    if tier is not None:
        if tier not in _TIERS:
            raise InvalidRequestError(f"tier is {tier!r}; it must be one of {', '.join(_TIERS)}")
        told["tier"] = tier
    if max_latency_ms is not None:
        if max_latency_ms <= 0:
            raise InvalidRequestError(f"max_latency_ms is {max_latency_ms:g}; it must be above 0")
        told["max_latency_ms"] = int(max_latency_ms) if float(max_latency_ms).is_integer() else float(max_latency_ms)
    return told


def embeddings(result: InferResult) -> Embeddings:
    """Read an embedding model's answer."""
    vectors = result["EMBEDDING"]
    return Embeddings(_routes(result, len(vectors)), result.request_id, result.timings, vectors)


def classifications(result: InferResult) -> Classifications:
    """Read a classifier's answer."""
    labels = tuple(_texts(result["LABEL"]))
    return Classifications(
        _routes(result, len(labels)),
        result.request_id,
        result.timings,
        labels,
        result["SCORE"].reshape(-1),
        result["PROBABILITIES"],
    )


def _routes(result: InferResult, rows: int) -> tuple[Route, ...]:
    """Who answered each row; a variant that was called by its own name says nothing of itself."""
    if "VARIANT" not in result.outputs:
        return (Route(result.model, result.version, "called by name"),) * rows
    columns = (_texts(result[name]) for name in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON"))
    return tuple(Route(*row) for row in zip(*columns, strict=True))


def _texts(array: Array) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1).tolist()]


def generation_inputs(
    spec: ModelSpec, prompt: str, sampling: Mapping[str, Any] | None, *, stream: bool
) -> dict[str, object]:
    """The inputs of Triton's LLM contract (the vLLM backend's), as far as the model has them."""
    if not isinstance(prompt, str):
        raise InvalidInputError("text_input", f"is {prompt!r}; expected str")
    inputs: dict[str, object] = {"text_input": prompt}
    if "stream" in spec.inputs:
        inputs["stream"] = np.bool_(stream)
    if "exclude_input_in_output" in spec.inputs:
        inputs["exclude_input_in_output"] = np.bool_(True)
    if sampling:
        inputs["sampling_parameters"] = json.dumps(dict(sampling))
    return inputs


def read_generation(result: InferResult) -> Generation:
    """Read one piece of a generated text."""
    text = b"".join(result["text_output"].reshape(-1).tolist()).decode()
    return Generation(text, result.model, result.version, result.request_id, result.timings, result.outputs)


def join_generation(model: str, pieces: Sequence[Generation]) -> Generation:
    """The whole of a streamed text; its other outputs are those of the last piece."""
    if not pieces:
        raise InvalidRequestError(f"model {model!r} gave no text")
    last = pieces[-1]
    text = "".join(piece.text for piece in pieces)
    return Generation(text, last.model, last.version, last.request_id, last.timings, last.outputs)
