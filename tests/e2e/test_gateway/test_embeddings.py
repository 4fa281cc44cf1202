"""Embeddings in OpenAI's format, from the models of the repository."""

from __future__ import annotations

import base64

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from pydantic import SecretStr
from trireme_client import TriremeClient

from tests.e2e.gateway_process import GatewayProcess

TEXTS = ["a sentence", "another sentence, which is longer"]


@pytest.fixture(scope="module")
def real_gateway(repository_server, tmp_path_factory):
    with GatewayProcess(tmp_path_factory.mktemp("real_gateway"), triton=repository_server.grpc_address) as running:
        yield running


@pytest.fixture(scope="module")
def vectors(repository_server):
    with TriremeClient(repository_server.grpc_address) as client:
        return client.embed(TEXTS, model="embedding_premium").vectors


def test_vectors_are_the_models_as_floats_and_as_base64(real_gateway, vectors):
    ask = {"model": "embedding_premium", "input": TEXTS}
    floats = real_gateway.post("embeddings", ask).json()
    assert [entry["index"] for entry in floats["data"]] == [0, 1]
    np.testing.assert_allclose([entry["embedding"] for entry in floats["data"]], vectors, atol=1e-5)
    coded = real_gateway.post("embeddings", {**ask, "encoding_format": "base64"}).json()["data"]
    decoded = [np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") for entry in coded]
    np.testing.assert_allclose(decoded, vectors, atol=1e-5)


def test_usage_counts_the_tokens_that_are_read(real_gateway):
    # [CLS] a sentence [SEP]
    for text, tokens in (("a sentence", 4), (["a sentence"] * 70, 280)):
        response = real_gateway.post("embeddings", {"model": "text_embedding", "input": text}).json()
        assert response["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize("tier", ["economy", "standard", "premium"])
def test_texts_of_any_number_and_length_are_embedded_in_order(real_gateway, tier):
    longer = "one two three four five six seven eight nine ten"
    for texts, tokens in ((["a"] * 64 + [longer], 64 * 3 + 12), ([f"{k % 10} a" for k in range(2048)], 2048 * 4)):
        answer = real_gateway.post(
            "embeddings", {"model": "text_embedding", "input": texts}, **{"x-trireme-tier": tier}
        )
        assert answer.status_code == 200, answer.text
        found = np.array([entry["embedding"] for entry in answer.json()["data"]])
        alone = real_gateway.post(
            "embeddings", {"model": "text_embedding", "input": texts[-1]}, **{"x-trireme-tier": tier}
        )
        assert found[-1] @ np.array(alone.json()["data"][0]["embedding"]) > 0.98
        assert answer.json()["usage"]["prompt_tokens"] == tokens


def test_task_routes_by_headers_and_reports_it(real_gateway):
    headers = {"x-trireme-tier": "economy", "x-trireme-max-latency-ms": "5000"}
    answer = real_gateway.post("embeddings", {"model": "text_embedding", "input": "x"}, **headers)
    assert answer.headers["x-trireme-variant"] == "embedding_economy"
    assert answer.headers["x-trireme-version"].isdigit()
    assert '"tier": "economy"' in answer.headers["x-trireme-reason"]
    refused = real_gateway.post("embeddings", {"model": "text_embedding", "input": "x"}, **{"x-trireme-tier": "golden"})
    assert refused.status_code == 400
    assert "economy" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"dimensions": 256}, "dimensions"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x", ""]}, "input"),
        ({"input": [1, 2]}, "input"),
        ({"input": [[1, 2]]}, "input"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": "text_classification"}, "model"),
    ],
)
def test_input_that_cannot_be_embedded_is_rejected(real_gateway, fields, param):
    answer = real_gateway.post("embeddings", {"model": "text_embedding", "input": "x", **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith(param)


def test_dimensions_of_the_model_are_taken(real_gateway):
    answer = real_gateway.post("embeddings", {"model": "text_embedding", "input": "x", "dimensions": 384})
    assert len(answer.json()["data"][0]["embedding"]) == 384


def test_openai_and_langchain_embed(real_gateway, vectors):
    with openai.OpenAI(base_url=f"{real_gateway.url}/v1", api_key="none") as client:
        response = client.embeddings.create(model="embedding_premium", input=TEXTS)
    np.testing.assert_allclose([entry.embedding for entry in response.data], vectors, atol=1e-5)
    embeddings = OpenAIEmbeddings(
        model="embedding_premium",
        base_url=f"{real_gateway.url}/v1",
        api_key=SecretStr("none"),
        check_embedding_ctx_length=False,
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), vectors, atol=1e-5)


def test_models_are_tasks_and_variants_without_their_steps(real_gateway):
    with openai.OpenAI(base_url=f"{real_gateway.url}/v1", api_key="none") as client:
        names = {model.id for model in client.models.list()}
    assert {"text_embedding", "embedding_premium", "text_classification", "sentiment_economy"} <= names
    assert not any("encoder" in name or "tokenizer" in name for name in names)
