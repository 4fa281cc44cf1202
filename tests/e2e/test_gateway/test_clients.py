"""Unmodified clients: openai, LangChain, curl."""

from __future__ import annotations

import asyncio
import json
import subprocess

import openai
import pytest
from langchain_openai import ChatOpenAI, OpenAI
from pydantic import BaseModel, SecretStr

from tests.deadlines import scaled

MESSAGES = [{"role": "user", "content": "say=3 a b"}]


@pytest.fixture(scope="module")
def client(gateway):
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_openai_client_chats_whole_and_streaming(client):
    answer = client.chat.completions.create(model="scripted", messages=MESSAGES, temperature=0, seed=7)
    assert answer.choices[0].message.content == "w0 w1 w2"
    assert answer.usage.total_tokens == 6
    options = {"include_usage": True}
    stream = client.chat.completions.create(model="scripted", messages=MESSAGES, stream=True, stream_options=options)
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "w0 w1 w2"
    assert chunks[-1].usage.completion_tokens == 3


def test_openai_client_reads_headers_completions_and_models(client):
    raw = client.completions.with_raw_response.create(
        model="scripted", prompt="say=2", extra_headers={"x-trireme-timeout-ms": "20000"}
    )
    assert raw.headers["x-trireme-variant"] == "scripted"
    assert raw.parse().choices[0].text == "w0 w1"
    assert [model.id for model in client.models.list()] == ["pinned", "scripted", "scripted_small"]


def test_openai_client_parses_structured_answers(client):
    class Nothing(BaseModel):
        pass

    answer = client.chat.completions.parse(model="scripted", messages=MESSAGES, response_format=Nothing)
    assert answer.choices[0].message.parsed == Nothing()


def test_openai_client_raises_its_own_errors(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="scripted", messages=MESSAGES, n=2)
    assert caught.value.param == "n"
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="nobody", messages=MESSAGES)
    broken = client.completions.create(model="scripted", prompt="say=9 fail_after=2", stream=True)
    with pytest.raises(openai.APIError, match="scripted failure"):
        list(broken)


def test_async_openai_client_streams_many_at_once(gateway):
    async def chat(client, count):
        messages = [{"role": "user", "content": f"say={count} every_ms=2"}]
        stream = await client.chat.completions.create(model="scripted", messages=messages, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    async def main():
        async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none") as client:
            return await asyncio.gather(*(chat(client, count) for count in range(1, 17)))

    assert [len(text.split()) for text in asyncio.run(main())] == list(range(1, 17))


def test_langchain_chats_and_completes(gateway):
    address = {"base_url": f"{gateway.url}/v1", "api_key": SecretStr("none"), "model": "scripted"}
    chat = ChatOpenAI(**address)
    answer = chat.invoke("say=3 a b")
    assert answer.content == "w0 w1 w2"
    assert answer.usage_metadata["total_tokens"] == 6
    assert "".join(chunk.content for chunk in chat.stream("say=3 a b")) == "w0 w1 w2"
    assert asyncio.run(chat.ainvoke("say=1")).content == "w0"
    assert OpenAI(**address).invoke("say=2") == "w0 w1"


def test_curl_streams(gateway):
    body = json.dumps({"model": "scripted", "messages": MESSAGES, "stream": True})
    command = ["curl", "-sN", f"{gateway.url}/v1/chat/completions", "-H", "content-type: application/json", "-d", body]
    response = subprocess.run(command, capture_output=True, text=True, timeout=scaled(60), check=True).stdout
    assert response.count("data: ") >= 4
    assert response.endswith("data: [DONE]\n\n")
