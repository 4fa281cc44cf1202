"""Requests with one text, and a readable form of their responses."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from trireme_client import ClientError, Endpoint, InferResult, OperatorClient, TriremeClient

from trireme.errors import ServerError, TriremeError
from trireme.repository.golden import Tensors
from trireme.repository.model_config import ModelConfig

_SHOWN_NUMBERS = 3
_MAX_CHAT_TOKENS = 128


@dataclass(frozen=True, slots=True)
class TextResponse:
    """The response to one text.

    Attributes:
        answer: the outputs in short, for people.
        outputs: the outputs as JSON values, without the batch dimension.
        variant, version: the model that responded; behind a router, the one it chose.
        reason: the router's reason for its choice; empty without a router.
        latency_ms: from sending the request to receiving the response.
    """

    answer: str
    outputs: Mapping[str, Any]
    variant: str
    version: str
    reason: str
    latency_ms: float

    @property
    def not_finite(self) -> str:
        """The first output with a number that is not finite, such as NaN; empty if all are finite."""
        for name, value in self.outputs.items():
            if any(isinstance(one, float) and not math.isfinite(one) for one in np.ravel(value).tolist()):
                return name
        return ""


def require_text_model(config: ModelConfig) -> None:
    """Check that the only input of a model is one text.

    Raises:
        TriremeError: it has other inputs, which the error names.
    """
    inputs = [(tensor.name, tensor.datatype) for tensor in config.inputs if not tensor.optional]
    if inputs != [("TEXT", "BYTES")]:
        named = ", ".join(f"{name} {datatype}" for name, datatype in inputs)
        raise TriremeError(f"{config.name} takes {named or 'nothing'}, not one TEXT; use a model that takes text")


def text_tensor(*texts: bytes) -> npt.NDArray[np.object_]:
    """Texts as a ``TEXT`` input: BYTES, shape [rows, 1]."""
    return np.array(texts, dtype=np.object_).reshape(-1, 1)


def send_text(
    client: OperatorClient, model: str, text: bytes, deadline_seconds: float, tier: str | None = None
) -> TextResponse:
    """Send one text to ``model``; ``tier`` is for routers.

    Raises:
        ClientError: the server rejected the request or did not respond in time.
    """
    parameters = {"tier": tier} if tier else {}
    return describe(client.infer(model, {"TEXT": text_tensor(text)}, deadline_seconds, parameters))


def send_chat(
    grpc_address: str, model: str, text: bytes, deadline_seconds: float, tier: str | None = None
) -> TextResponse:
    """Send one chat message to a language model or its route; decode greedily, up to a maximum length.

    Raises:
        ServerError: the server rejected the request or did not respond in time.
    """
    started = time.perf_counter()
    messages = [{"role": "user", "content": text.decode()}]
    sampling = {"temperature": 0, "max_tokens": _MAX_CHAT_TOKENS}
    try:
        with TriremeClient(Endpoint(grpc_address, direct=True), deadline_ms=deadline_seconds * 1000) as client:
            chunks = list(client.generate(model, messages=messages, sampling_parameters=sampling, tier=tier))
    except ClientError as error:
        raise ServerError(error.problem) from None
    latency_ms = (time.perf_counter() - started) * 1000
    last, text_output = chunks[-1], "".join(chunk.text for chunk in chunks)
    outputs = {"text_output": text_output, "finish_reason": last.finish_reason}
    return TextResponse(text_output, outputs, last.model, last.version, last.reason, latency_ms)


def describe(response: InferResult) -> TextResponse:
    """The first row of ``response`` in readable form."""
    outputs = _as_document(response.outputs)
    # A router reports the variant that responded; without one, it is the called model.
    variant = outputs.pop("VARIANT", response.model)
    version = outputs.pop("VARIANT_VERSION", response.version)
    reason = outputs.pop("ROUTE_REASON", "")
    return TextResponse(_summary(outputs), outputs, variant, version, reason, response.timings.total_ms)


def describe_outputs(outputs: Tensors) -> str:
    """The first row of a model's outputs in readable form."""
    return _summary(_as_document(outputs))


def _as_document(outputs: Tensors) -> dict[str, Any]:
    return {name: _as_json(tensor) for name, tensor in outputs.items()}


def _summary(outputs: Mapping[str, Any]) -> str:
    """``positive (0.97)`` for a label, otherwise the outputs by name with the first few numbers of each."""
    if "LABEL" in outputs:
        return f"{outputs['LABEL']} ({outputs['SCORE']:.2f})" if "SCORE" in outputs else str(outputs["LABEL"])
    if len(outputs) == 1:
        return _shortened(next(iter(outputs.values())))
    return ", ".join(f"{name} {_shortened(value)}" for name, value in outputs.items())


def _shortened(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    shown = ", ".join(
        f"{number:.3f}" if isinstance(number, float) else str(number) for number in value[:_SHOWN_NUMBERS]
    )
    return f"[{shown}{', ...' if len(value) > _SHOWN_NUMBERS else ''}]"


def _as_json(tensor: npt.NDArray[Any]) -> Any:
    row = tensor[0] if tensor.ndim > 1 else tensor
    values = [value.decode(errors="replace") for value in row] if row.dtype == np.object_ else row.tolist()
    return values[0] if isinstance(values, list) and len(values) == 1 else values


def short_reason(reason: str) -> str:
    """The ``reason`` in a router's JSON reason; the text itself if it is not such JSON."""
    try:
        document = json.loads(reason)
    except ValueError:
        return reason
    return str(document.get("reason", reason)) if isinstance(document, dict) else reason
