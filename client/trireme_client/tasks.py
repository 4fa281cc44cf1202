"""Tensors and parameters of the tasks' requests and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trireme_client.errors import InvalidInputError, InvalidRequestError, ServerFaultError
from trireme_client.request import Parameter
from trireme_client.results import Classifications, Embeddings, InferResult, Route
from trireme_client.tensors import Array

EMBED_MODEL = "text_embedding"
CLASSIFY_MODEL = "text_classification"

_TIERS = ("economy", "standard", "premium", "auto")


def text_inputs(texts: str | Sequence[str]) -> dict[str, object]:
    """One row per text."""
    rows = [texts] if isinstance(texts, str) else list(texts)
    for index, text in enumerate(rows):
        if not isinstance(text, str):
            raise InvalidInputError("TEXT", f"element {index} is {text!r}; expected str")
    return {"TEXT": rows}


def route_parameters(
    tier: str | None, max_latency_ms: float | None, parameters: Mapping[str, Parameter]
) -> dict[str, Parameter]:
    """The router's request parameters."""
    return {**parameters, **_tier(tier), **_latency_limit("max_latency_ms", max_latency_ms)}


def generation_parameters(
    tier: str | None, max_ttft_ms: float | None, max_ms_per_token: float | None, parameters: Mapping[str, Parameter]
) -> dict[str, Parameter]:
    """The request parameters of a streaming route."""
    limits = _latency_limit("max_ttft_ms", max_ttft_ms) | _latency_limit("max_ms_per_token", max_ms_per_token)
    return {**parameters, **_tier(tier), **limits}


def _tier(tier: str | None) -> dict[str, Parameter]:
    if tier is None:
        return {}
    if tier not in _TIERS:
        raise InvalidRequestError(f"tier is {tier!r}; it must be one of {', '.join(_TIERS)}")
    return {"tier": tier}


def _latency_limit(name: str, limit_ms: float | None) -> dict[str, Parameter]:
    if limit_ms is None:
        return {}
    if limit_ms <= 0:
        raise InvalidRequestError(f"{name} is {limit_ms:g}; it must be above 0")
    return {name: int(limit_ms) if float(limit_ms).is_integer() else float(limit_ms)}


def read_embeddings(result: InferResult) -> Embeddings:
    """Read an embedding model's result."""
    vectors = _rows(result, "EMBEDDING")
    return Embeddings(_routes(result, len(vectors)), result.request_id, result.timings, vectors)


def read_classifications(result: InferResult) -> Classifications:
    """Read a classifier's result."""
    labels = tuple(_texts(result["LABEL"]))
    return Classifications(
        _routes(result, len(labels)),
        result.request_id,
        result.timings,
        labels,
        result["SCORE"].reshape(-1),
        _rows(result, "PROBABILITIES"),
    )


def _rows(result: InferResult, output: str) -> Array:
    """An output whose rows have equal length: requests of a split call may have reached two versions of a model."""
    rows = result[output]
    if rows.dtype == object:
        widths = ", ".join(str(width) for width in sorted({len(row) for row in rows}))
        raise ServerFaultError(
            "MALFORMED", f"{result.model} returned rows of {output} with {widths} numbers in one call"
        )
    return rows


def _routes(result: InferResult, rows: int) -> tuple[Route, ...]:
    """The variant of each row; a variant called by name does not report itself."""
    if "VARIANT" not in result.outputs:
        return (Route(result.model, result.version, "called by name"),) * rows
    columns = (_texts(result[name]) for name in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON"))
    return tuple(Route(*row) for row in zip(*columns, strict=True))


def _texts(array: Array) -> list[str]:
    return [item.decode() if isinstance(item, bytes) else str(item) for item in array.reshape(-1).tolist()]
