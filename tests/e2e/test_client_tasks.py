"""The client's task calls on the real models, through the routers and by name."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from trireme_client import AsyncTriremeClient, ClientError, TriremeClient

TEXTS = ["a wonderful film", "a complete waste of time", "I loved every minute of it"]


@pytest.fixture
def client(repository_server):
    with TriremeClient(repository_server.grpc_address, deadline_ms=20_000) as made:
        yield made


@pytest.mark.parametrize("tier", ["economy", "standard", "premium"])
def test_a_tier_is_served_by_its_variant(client, tier):
    embedded = client.embed(TEXTS, tier=tier, max_latency_ms=10_000)
    assert embedded.vectors.shape == (3, 384)
    assert np.allclose(np.linalg.norm(embedded.vectors, axis=1), 1.0, atol=1e-3)
    assert {route.variant for route in embedded.routes} == {f"embedding_{tier}"}
    assert all(route.version and route.reason for route in embedded.routes)


def test_a_route_and_its_variant_by_name_agree(client):
    routed = client.classify(TEXTS, tier="premium")
    named = client.classify(TEXTS, model="sentiment_premium")
    assert routed.labels == named.labels == ("positive", "negative", "positive")
    assert named.variant == "sentiment_premium"
    assert np.allclose(routed.scores, routed.probabilities.max(axis=1))


def test_more_texts_than_a_batch_are_returned_in_order(client):
    texts = [f"sentence number {number}" for number in range(130)]
    together = client.embed(texts, tier="premium").vectors
    assert together.shape == (130, 384)
    alone = client.embed(texts[-1], tier="premium").vectors
    assert np.allclose(together[-1], alone[0], atol=1e-4)


def test_asyncio_gives_equal_results(repository_server, client):
    async def main():
        async with AsyncTriremeClient(repository_server.grpc_address) as asynchronous:
            return await asynchronous.embed(TEXTS, tier="premium")

    assert np.allclose(asyncio.run(main()).vectors, client.embed(TEXTS, tier="premium").vectors, atol=1e-4)


def test_a_parameter_that_the_router_rejects_is_reported(client):
    with pytest.raises(ClientError, match="min_quality"):
        client.embed("a", parameters={"min_quality": "high"})


def test_a_route_that_decides_counts_only_loaded_variants(client):
    names = ("generation_economy", "generation_premium")
    loaded = [name for name in names if client.is_ready(name)]
    result = client.infer(
        "text_generation", {"PROMPT_CHARACTERS": [5]}, parameters={"tier": "premium", "explain": True}
    )
    reason = json.loads(result["ROUTE_REASON"][0])
    assert [one["variant"] for one in reason["considered"] if one["verdict"] != "not_loaded"] == loaded
    assert ("leave_after_ms" in reason) == (len(loaded) > 1)
