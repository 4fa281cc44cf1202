"""The engine against fake servers with the published APIs."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from trireme_backends.errors import ModelError
from trireme_backends.generation.contract import GenerationRequest, Message
from trireme_backends.generation.engine import Chunk
from trireme_backends.generation.errors import (
    CancelledError,
    ContextLengthError,
    EngineError,
    GenerationError,
    InvalidRequestError,
    OverloadedError,
    UnsupportedError,
)
from trireme_backends.generation.openai_config import OpenAIConfig
from trireme_backends.generation.openai_dialects import DIALECTS
from trireme_backends.generation.openai_engine import OpenAIEngine
from trireme_backends.generation.sampling import SamplingParameters
from trireme_backends.model import Model

from tests.deadlines import scaled
from tests.unit.trireme_backends.generation.protocol_servers import ProtocolServer, Script, TgiServer, TrtllmServer

DEADLINE_SECONDS = scaled(20.0)
SERVERS: dict[str, tuple[type[ProtocolServer], str]] = {
    "tgi": (TgiServer, "HuggingFaceTB/SmolLM2"),
    "trtllm": (TrtllmServer, "smollm2"),
}


class Rig:
    """A server of a dialect and an engine connected to it."""

    def __init__(self, dialect: str, server: ProtocolServer, **settings: Any) -> None:
        self.server = server
        config = OpenAIConfig(DIALECTS[dialect], f"{server.url}/v1", SERVERS[dialect][1], **settings)
        self.engine = OpenAIEngine(config)

    def start(self, *, chat: bool = False, **sampling: Any) -> tuple[Any, queue.Queue[Chunk | GenerationError]]:
        received: queue.Queue[Chunk | GenerationError] = queue.Queue()
        return self.engine.submit(request(chat=chat, **sampling), received.put), received

    def generate(self, *, chat: bool = False, **sampling: Any) -> list[Chunk]:
        _, received = self.start(chat=chat, **sampling)
        chunks: list[Chunk] = []
        while not chunks or chunks[-1].finish_reason is None:
            chunk = received.get(timeout=DEADLINE_SECONDS)
            if isinstance(chunk, GenerationError):
                raise chunk
            chunks.append(chunk)
        assert received.empty()
        return chunks

    @property
    def body(self) -> dict[str, Any]:
        return dict(self.server.received[-1].body)


def request(*, chat: bool = False, **sampling: Any) -> GenerationRequest:
    return GenerationRequest(
        request_id="r",
        prompt=None if chat else "The capital of France is",
        messages=(Message("user", "Hello"),) if chat else None,
        stream=True,
        sampling=SamplingParameters.parse(json.dumps(sampling)),
        echo=False,
        outputs=frozenset({"text_output"}),
    )


@pytest.fixture
def rig() -> Iterator[Callable[..., Rig]]:
    with ExitStack() as stack:

        def make(dialect: str, **settings: Any) -> Rig:
            server = stack.enter_context(SERVERS[dialect][0](api_key=settings.get("api_key", "")))
            made = Rig(dialect, server, **settings)
            stack.callback(made.engine.close)
            return made

        yield make


dialects = pytest.mark.parametrize("dialect", sorted(SERVERS))
chat_or_not = pytest.mark.parametrize("chat", [False, True], ids=["completion", "chat"])


@dialects
@chat_or_not
def test_a_stream_becomes_chunks_with_token_counts_and_a_finish_reason(
    rig: Callable[..., Rig], dialect: str, chat: bool
) -> None:
    tested = rig(dialect)
    tested.server.script = Script([" Par", "is", " né😀"], "length", prompt_tokens=7)
    chunks = tested.generate(chat=chat, max_tokens=3)
    assert "".join(chunk.text for chunk in chunks) == " Paris né😀"
    assert sum(chunk.num_output_tokens for chunk in chunks) == 3
    assert chunks[-1].finish_reason == "length"
    assert chunks[-1].num_input_tokens == 7
    assert tested.server.received[-1].path == ("/v1/chat/completions" if chat else "/v1/completions")


@dialects
@chat_or_not
def test_a_request_has_only_the_parameters_that_were_set(rig: Callable[..., Rig], dialect: str, chat: bool) -> None:
    tested = rig(dialect)
    tested.generate(chat=chat, temperature=0, max_tokens=8, stop=["\n"], seed=4, frequency_penalty=0.5, top_p=0.9)
    body = tested.body
    if chat:
        assert body.pop("messages") == [{"role": "user", "content": "Hello"}]
    else:
        assert body.pop("prompt") == "The capital of France is"
    common = {"temperature": 0, "max_tokens": 8, "stop": ["\n"], "seed": 4, "frequency_penalty": 0.5, "top_p": 0.9}
    own = {
        # Any other name would mean an adapter.
        "tgi": {"model": "tgi"} | ({"stream_options": {"include_usage": True}} if chat else {}),
        "trtllm": {
            "model": "smollm2",
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
            "top_k": 0,
            "min_p": 0,
            "repetition_penalty": 1,
        },
    }
    assert body == {"stream": True, **common, **own[dialect]}


@pytest.mark.parametrize(
    ("dialect", "chat", "sampling", "expected"),
    [
        ("tgi", True, {"json": {"type": "object"}}, {"type": "json", "value": {"type": "object"}}),
        ("tgi", True, {"regex": "[0-9]+"}, {"type": "regex", "value": "[0-9]+"}),
        ("trtllm", True, {"json": {"type": "object"}}, {"type": "json_schema", "json_schema": {"type": "object"}}),
        ("trtllm", False, {"regex": "[0-9]+"}, {"type": "regex", "regex": "[0-9]+"}),
        ("trtllm", False, {"grammar": "root ::= 'a'"}, {"type": "ebnf", "ebnf": "root ::= 'a'"}),
    ],
)
def test_structured_output_is_requested_in_the_engine_s_own_format(
    rig: Callable[..., Rig], dialect: str, chat: bool, sampling: dict[str, Any], expected: dict[str, Any]
) -> None:
    tested = rig(dialect)
    tested.generate(chat=chat, structured_outputs=sampling)
    assert tested.body["response_format"] == expected


@pytest.mark.parametrize(
    ("dialect", "chat", "sampling", "param"),
    [
        ("tgi", True, {"presence_penalty": 1}, "presence_penalty"),
        ("tgi", True, {"repetition_penalty": 1.1}, "repetition_penalty"),
        ("tgi", False, {"top_k": 5}, "top_k"),
        ("tgi", False, {"structured_outputs": {"regex": "a"}}, "structured_outputs.regex"),
        ("tgi", True, {"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        ("trtllm", False, {"lora_name": "brief"}, "lora_name"),
        ("trtllm", True, {"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
        ("trtllm", True, {"logprobs": 1}, "logprobs"),
    ],
)
def test_unsupported_parameters_are_rejected_by_name_and_not_sent(
    rig: Callable[..., Rig], dialect: str, chat: bool, sampling: dict[str, Any], param: str
) -> None:
    tested = rig(dialect)
    with pytest.raises(UnsupportedError) as caught:
        tested.start(chat=chat, **sampling)
    assert caught.value.param == param
    assert tested.server.received == []


def test_an_adapter_is_requested_by_name_in_place_of_the_model(rig: Callable[..., Rig]) -> None:
    tested = rig("tgi")
    tested.generate(chat=True, lora_name="brief")
    assert tested.body["model"] == "brief"


@chat_or_not
@pytest.mark.parametrize("reason", ["stop_sequence", "eos_token"])
def test_a_stop_string_that_the_engine_leaves_in_the_text_is_removed(
    rig: Callable[..., Rig], chat: bool, reason: str
) -> None:
    tested = rig("tgi")
    tested.server.script = Script(["one", " E", "ND"] if reason == "stop_sequence" else ["one", " E"], reason)
    chunks = tested.generate(chat=chat, stop=["END"])
    assert "".join(chunk.text for chunk in chunks) == ("one " if reason == "stop_sequence" else "one E")
    assert chunks[-1].finish_reason == "stop"


@pytest.mark.parametrize(
    ("dialect", "status", "body", "kind", "message"),
    [
        (
            "tgi",
            422,
            {
                "error": "Input validation error: `inputs` must have less than 64 tokens. Given: 70",
                "error_type": "validation",
            },
            ContextLengthError,
            "prompt has 70 tokens; the model's context is 64",
        ),
        (
            "tgi",
            422,
            {
                "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 64. "
                "Given: 60 `inputs` tokens and 10 `max_new_tokens`",
                "error_type": "validation",
            },
            ContextLengthError,
            "prompt has 60 tokens and max_tokens is 10",
        ),
        ("tgi", 429, {"error": "Model is overloaded", "error_type": "overloaded"}, OverloadedError, "is overloaded"),
        ("tgi", 424, {"error": "Request failed", "error_type": "generation"}, EngineError, "Request failed"),
        ("tgi", 500, {"error": "Incomplete generation", "error_type": "incomplete_generation"}, EngineError, "500"),
        ("trtllm", 400, TrtllmServer.flat_error("bad seed"), InvalidRequestError, "bad seed"),
        ("trtllm", 400, {"error": "[{'type': 'missing'}]"}, InvalidRequestError, "missing"),
        ("trtllm", 500, TrtllmServer.flat_error("no", "InternalServerError", 500), EngineError, "returned 500: no"),
        ("trtllm", 503, "not JSON's object", OverloadedError, "no reason given"),
    ],
)
def test_an_error_response_becomes_the_contract_s_error(
    rig: Callable[..., Rig], dialect: str, status: int, body: Any, kind: type[GenerationError], message: str
) -> None:
    tested = rig(dialect)
    tested.server.script = Script(rejection=(status, body))
    with pytest.raises(kind, match=message):
        tested.generate(chat=True, max_tokens=10)
    tested.server.script = Script()
    assert tested.generate(chat=True)[-1].finish_reason == "stop"


@dialects
@chat_or_not
def test_an_engine_that_fails_during_a_stream_gives_an_error_after_its_chunks(
    rig: Callable[..., Rig], dialect: str, chat: bool
) -> None:
    tested = rig(dialect)
    tested.server.script = Script(["one", " two", " three"], fault_after=2)
    _, received = tested.start(chat=chat)
    seen = [received.get(timeout=DEADLINE_SECONDS)]
    while not isinstance(seen[-1], GenerationError):
        seen.append(received.get(timeout=DEADLINE_SECONDS))
    assert isinstance(seen[-1], EngineError)
    assert "".join(chunk.text for chunk in seen[:-1] if isinstance(chunk, Chunk)) == "one two"
    tested.server.script = Script()
    assert tested.generate(chat=chat)[-1].finish_reason == "stop"


@dialects
def test_cancelling_closes_the_connection_upstream(rig: Callable[..., Rig], dialect: str) -> None:
    tested = rig(dialect)
    tested.server.script = Script(["chunk"] * 1000, seconds_per_chunk=0.05)
    generation, received = tested.start(chat=True)
    assert isinstance(received.get(timeout=DEADLINE_SECONDS), Chunk)
    generation.cancel()
    assert tested.server.received[-1].disconnected.wait(DEADLINE_SECONDS)
    while not isinstance(seen := received.get(timeout=DEADLINE_SECONDS), GenerationError):
        pass
    assert isinstance(seen, CancelledError)
    assert tested.engine.state().running == 0


def test_a_connection_is_reused(rig: Callable[..., Rig]) -> None:
    tested = rig("trtllm")
    for _ in range(3):
        tested.generate()
        # The last chunk arrives before its connection is free again.
        deadline = time.monotonic() + DEADLINE_SECONDS
        while tested.engine.state().running and time.monotonic() < deadline:
            time.sleep(0.01)
    assert len({id(received.connection) for received in tested.server.received}) == 1


def test_an_engine_that_does_not_respond_times_out(rig: Callable[..., Rig]) -> None:
    tested = rig("tgi", read_timeout_seconds=0.2)
    tested.server.script = Script(seconds_per_chunk=30.0)
    with pytest.raises(EngineError, match="did not respond in time"):
        tested.generate()
    assert tested.server.received[-1].disconnected.wait(DEADLINE_SECONDS)


def test_the_key_is_sent_and_a_wrong_key_is_an_error_without_the_key(rig: Callable[..., Rig]) -> None:
    tested = rig("tgi", api_key="secret")
    assert tested.generate()[-1].finish_reason == "stop"
    config = OpenAIConfig(DIALECTS["tgi"], f"{tested.server.url}/v1", "HuggingFaceTB/SmolLM2", api_key="wrong-one")
    with pytest.raises(ModelError) as caught:
        OpenAIEngine(config)
    assert "401" in str(caught.value) or "API key" in str(caught.value)
    assert "wrong-one" not in str(caught.value) + repr(config)


def test_closing_cancels_running_requests(rig: Callable[..., Rig]) -> None:
    tested = rig("trtllm")
    tested.server.script = Script(["chunk"] * 1000, seconds_per_chunk=0.05)
    _, received = tested.start()
    assert isinstance(received.get(timeout=DEADLINE_SECONDS), Chunk)
    tested.engine.close()
    while isinstance(seen := received.get(timeout=DEADLINE_SECONDS), Chunk):
        pass
    assert isinstance(seen, CancelledError)


@dialects
def test_a_model_that_is_not_served_fails_at_load(rig: Callable[..., Rig], dialect: str) -> None:
    tested = rig(dialect)
    with pytest.raises(ModelError, match=f"does not serve 'other'; available: {SERVERS[dialect][1]}"):
        OpenAIEngine(OpenAIConfig(DIALECTS[dialect], f"{tested.server.url}/v1", "other"))


def test_an_unhealthy_or_unreachable_engine_fails_at_load(rig: Callable[..., Rig]) -> None:
    tested = rig("tgi")
    tested.server.healthy = False
    config = OpenAIConfig(DIALECTS["tgi"], f"{tested.server.url}/v1", "HuggingFaceTB/SmolLM2")
    with pytest.raises(ModelError, match="/health: the engine is not healthy, it returned 503"):
        OpenAIEngine(config)
    with pytest.raises(ModelError, match="is not reachable"):
        OpenAIEngine(OpenAIConfig(DIALECTS["tgi"], "http://127.0.0.1:9/v1", "any"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "must be a JSON object"),
        ('{"dialect": "tgi"}', "base_url: is missing"),
        (
            '{"dialect": "x", "base_url": "http://a/v1", "model": "m"}',
            "dialect: is 'x'; it must be one of vllm, trtllm, tgi",
        ),
        (
            '{"dialect": "tgi", "base_url": "a:80", "model": "m"}',
            "base_url: is 'a:80'; it must be a URL that begins with http",
        ),
        (
            '{"dialect": "tgi", "base_url": "http://a", "model": "m", "api_key": "k"}',
            "api_key: must not be in this file",
        ),
        ('{"dialect": "tgi", "base_url": "http://a", "model": "m", "api_key_file": "no"}', "cannot be read"),
        ('{"dialect": "tgi", "base_url": "http://a", "model": "m", "max_connections": 0}', "at least 1"),
        (
            '{"dialect": "tgi", "base_url": "http://a", "model": "m", "read_timeout_seconds": "1"}',
            "it must be a number",
        ),
    ],
)
def test_an_invalid_configuration_is_rejected_with_a_message(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        OpenAIConfig.read(Model("m", {}, tmp_path))


def test_a_configuration_is_read_with_its_key(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret\n")
    content = {"dialect": "vllm", "base_url": "https://a/v1/", "model": "m", "api_key_file": "key"}
    (tmp_path / "model.json").write_text(json.dumps(content | {"read_timeout_seconds": 30, "max_connections": 8}))
    config = OpenAIConfig.read(Model("m", {}, tmp_path))
    assert config == OpenAIConfig(DIALECTS["vllm"], "https://a/v1", "m", "secret", 5.0, 30, 8)
    assert (config.url("models"), config.health_url) == ("https://a/v1/models", "https://a/health")
