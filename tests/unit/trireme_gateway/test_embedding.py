"""Embeddings in OpenAI's format, of a fake Triton in this process."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from trireme_client import AsyncTriremeClient, FakeServer
from trireme_gateway.embedding import embed
from trireme_gateway.errors import ApiError
from trireme_gateway.fields import EmbeddingFields
from trireme_gateway.request_context import RequestContext
from trireme_gateway.route_options import RouteOptions


def tokenize(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """A token a word, padded to the longest text of the request."""
    words = [len(row[0].split()) for row in inputs["TEXT"]]
    return {"ATTENTION_MASK": np.array([[1] * count + [0] * (max(words) - count) for count in words], np.int64)}


def vectors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {"EMBEDDING": np.array([[len(row[0]), float(row[0] == b"broken") and np.nan] for row in inputs["TEXT"]])}


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as server:
        text = {"TEXT": ("BYTES", [1])}
        server.add_model("tokens", inputs=text, outputs={"ATTENTION_MASK": ("INT64", [-1])}, max_batch_size=64,
                         compute=tokenize)  # fmt: skip
        server.add_model("vectors", inputs=text, outputs={"EMBEDDING": ("FP32", [2])}, max_batch_size=64,
                         compute=vectors)  # fmt: skip
        yield server


def answer(server: FakeServer, texts: list[str], encoding: str) -> dict[str, Any]:
    async def ask() -> dict[str, Any]:
        async with AsyncTriremeClient(server.address) as client:
            spec = dataclasses.replace(await client.spec("vectors"), parameters={"tokenizer": "tokens"})
            fields = EmbeddingFields.model_validate({"model": "vectors", "input": texts, "encoding_format": encoding})
            return await embed(client, fields, spec, RouteOptions({}, 30_000), RequestContext("id", None))

    return asyncio.run(ask())


@pytest.mark.parametrize("texts", [["a"] * 64 + ["one two three four"], [f"{'a ' * (k % 9)}b" for k in range(2048)]],
                         ids=["65", "2048"])  # fmt: skip
def test_texts_of_any_number_and_length_are_embedded_in_order_and_their_tokens_counted(fake, texts):
    answered = answer(fake, texts, "float")
    assert [entry["embedding"][0] for entry in answered["data"]] == [len(text) for text in texts]
    assert answered["usage"]["prompt_tokens"] == sum(len(text.split()) for text in texts)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_a_vector_that_is_not_finite_is_an_error_with_model_and_row(fake, encoding):
    with pytest.raises(
        ApiError, match=r"^vectors answered input\[70\] with a value that is not a finite number$"
    ) as error:
        answer(fake, ["fine"] * 70 + ["broken", "fine"], encoding)
    assert (error.value.status, error.value.code) == (500, "engine_failed")
    assert len(answer(fake, ["fine"], encoding)["data"]) == 1
