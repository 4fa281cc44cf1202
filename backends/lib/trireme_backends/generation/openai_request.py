"""Builds the request body for an engine with OpenAI's API."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from trireme_backends.generation.contract import GenerationRequest
from trireme_backends.generation.openai_dialects import Dialect
from trireme_backends.generation.sampling import SamplingParameters, StructuredOutputs


def request_body(request: GenerationRequest, dialect: Dialect, model: str) -> dict[str, Any]:
    """The JSON body for ``/v1/chat/completions`` if the request has messages, otherwise for ``/v1/completions``.

    The response is always requested as a stream, so that it can be cancelled at any chunk.

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
            # -1 disables top_k as well, but not all engines accept it.
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
