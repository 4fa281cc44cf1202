"""Embeddings in OpenAI's response format."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from trireme_client import AsyncTriremeClient, ClientError, Embeddings, ModelSpec

from trireme_gateway.errors import ApiError, from_client_error, invalid
from trireme_gateway.fields import EmbeddingFields
from trireme_gateway.request_context import RequestContext
from trireme_gateway.route_options import RouteOptions

# Names the model that cuts a text into the tokens that the encoder reads.
_TOKENIZER = "tokenizer"


async def embed(
    client: AsyncTriremeClient,
    fields: EmbeddingFields,
    spec: ModelSpec,
    options: RouteOptions,
    context: RequestContext,
) -> dict[str, Any]:
    """The answer's body.

    Raises:
        ApiError: the request failed.
    """
    dims = spec.outputs["EMBEDDING"].dims[-1]
    if fields.dimensions not in (None, dims):
        raise invalid("dimensions", f"is {fields.dimensions}; vectors of {fields.model} have {dims}, and cannot be cut")
    tokenizer = spec.parameters.get(_TOKENIZER, "")
    try:
        embedded, tokens = await asyncio.gather(
            client.embed(fields.texts, model=fields.model, parameters=options.parameters,
                         deadline_ms=options.timeout_ms, request_id=context.request_id),
            _count_tokens(client, tokenizer, fields.texts, options.timeout_ms),
        )  # fmt: skip
    except ClientError as error:
        raise from_client_error(error) from error
    context.answered_by(embedded.variant, embedded.version, embedded.reason)
    context.used(tokens, 0)
    return {
        "object": "list",
        "model": fields.model,
        "data": [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(_vectors(embedded, fields.encoding_format))
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _count_tokens(client: AsyncTriremeClient, tokenizer: str, texts: Sequence[str], timeout_ms: float) -> int:
    """Number of tokens that the encoder reads; 0 for a model without a tokenizer."""
    if not tokenizer:
        return 0
    # Alike lengths in one request: the tokenizer pads to the longest.
    result = await client.infer(tokenizer, {"TEXT": sorted(texts, key=len)}, ["ATTENTION_MASK"], deadline_ms=timeout_ms)
    # Row by row: the requests of a split call are padded each to its own longest text.
    return sum(int(row.sum()) for row in result["ATTENTION_MASK"])


def _vectors(embedded: Embeddings, encoding: str) -> list[Any]:
    finite = np.isfinite(embedded.vectors).all(axis=1)
    if not finite.all():
        row = int(finite.argmin())
        problem = f"{embedded.routes[row].variant} answered input[{row}] with a value that is not a finite number"
        raise ApiError(500, problem, kind="server_error", code="engine_failed")
    if encoding == "float":
        floats: list[Any] = embedded.vectors.tolist()
        return floats
    return [base64.b64encode(vector.astype("<f4").tobytes()).decode() for vector in embedded.vectors]
