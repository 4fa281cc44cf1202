"""What every engine behind the generation contract must do, on the real server.

An engine is added by a line in ``ENGINES`` and what writes its two models.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from trireme.files import link_or_copy
from trireme.processes.server import ServerFlags, TritonServer
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings
from trireme_client import ClientError, OperatorClient, TriremeClient

from tests.deadlines import scaled
from tests.e2e.serving import wait_until
from tests.servers import throw_away_server

BYSTANDER = Path(__file__).parent / "client_models" / "identity"
CONTEXT_TOKENS, CACHE_TOKENS, STEP_TOKENS = 1024, 1536, 64
GREEDY = {"temperature": 0.0, "max_tokens": 24}
PROMPT = "The sky is blue and the"
REPEATING = "one two three four five six seven. " * 6
# A hang guard, not a measure.
DEADLINE_SECONDS = scaled(60.0)


def write_openvino_models(repository: Path) -> None:
    """``plain`` with a small KV cache, and ``lookup`` that speculates."""
    exported = ModelRepository(Settings.from_environment().repository_dir).model("generation_economy_engine")
    engine = {"model": "model.gguf", "max_model_len": CONTEXT_TOKENS, "kv_cache_tokens": CACHE_TOKENS,
              "max_num_batched_tokens": STEP_TOKENS, "max_num_seqs": 8, "threads": 1}  # fmt: skip
    for name, more in (("plain", {}), ("lookup", {"speculative_config": {"method": "ngram"}})):
        version = repository / name / "1"
        version.mkdir(parents=True)
        shutil.copy(exported.config_path, repository / name)
        link_or_copy(exported.version_dir(1) / "model.gguf", version / "model.gguf")
        (version / "model.json").write_text(json.dumps(engine | more))


ENGINES = {"openvino_genai": write_openvino_models}


@pytest.fixture(scope="module", params=ENGINES)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    repository = tmp_path_factory.mktemp("repository")
    ENGINES[request.param](repository)
    shutil.copytree(BYSTANDER, repository / BYSTANDER.name)
    # Short, since a request to an engine that was killed counts as in flight for good.
    with throw_away_server(ServerFlags(repository)) as server:
        yield server


@pytest.fixture
def client(server: TritonServer) -> Iterator[TriremeClient]:
    with TriremeClient(server.grpc_address, deadline_ms=DEADLINE_SECONDS * 1000) as client:
        yield client


def generate(client: TriremeClient, text: str = PROMPT, *, model: str = "plain", stream: bool = True, **sampling):
    return list(client.generate(model, text, sampling_parameters={**GREEDY, **sampling}, stream=stream))


def text_of(chunks) -> str:
    return "".join(chunk.text for chunk in chunks)


def metric(server: TritonServer, name: str, model: str = "plain") -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.flags.metrics_port}/metrics", timeout=scaled(10)) as page:
        lines = page.read().decode().splitlines()
    found = [line for line in lines if line.startswith(name + "{") and f'model="{model}"' in line]
    return sum(float(line.rsplit(" ", 1)[1]) for line in found)


def steps_of(server: TritonServer, model: str, call) -> float:
    """How many steps the engine took for ``call``; the metrics are half a second behind."""
    before = settled_steps(server, model)
    call()
    return settled_steps(server, model) - before


def settled_steps(server: TritonServer, model: str) -> float:
    seen = -1.0
    while (now := metric(server, "trireme_generation_steps_total", model)) != seen:
        seen = now
        time.sleep(1.2)
    return now


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "seed": 7}, {"stop": ["and"]}], ids=str)
def test_stream_is_the_same_text_as_the_whole_answer(client: TriremeClient, sampling: dict) -> None:
    pieces = generate(client, **sampling)
    (whole,) = generate(client, stream=False, **sampling)
    # The whole answer of the contract begins with the prompt unless that is excluded, which the client does.
    assert text_of(pieces) == whole.text
    assert sum(piece.num_output_tokens for piece in pieces) == whole.num_output_tokens
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason == whole.finish_reason


def test_pieces_are_whole_characters(client: TriremeClient) -> None:
    pieces = generate(client, "😀 é 漢字 😀 é 漢字 😀 é", max_tokens=40)
    assert "\ufffd" not in text_of(pieces[:-1])


def test_limit_is_kept_and_told(client: TriremeClient) -> None:
    (answer,) = generate(client, stream=False, max_tokens=5, ignore_eos=True)
    assert (answer.num_output_tokens, answer.finish_reason) == (5, "length")


def test_no_limit_fills_the_context(client: TriremeClient) -> None:
    prompt = "word " * (CONTEXT_TOKENS - 40)
    (answer,) = generate(client, prompt, stream=False, max_tokens=None, ignore_eos=True)
    assert answer.num_input_tokens + answer.num_output_tokens == CONTEXT_TOKENS


def test_stop_text_ends_the_answer_and_is_left_out(client: TriremeClient) -> None:
    plain = text_of(generate(client))
    stop = plain.split()[3]
    pieces = generate(client, stop=[stop, "never said"])
    assert text_of(pieces) == plain[: plain.index(stop)]
    assert pieces[-1].finish_reason == "stop"
    assert text_of(generate(client, stop=[stop], include_stop_str_in_output=True)).endswith(stop)


def test_seed_decides_the_text(client: TriremeClient) -> None:
    def say(seed: int | None) -> str:
        return text_of(generate(client, temperature=1.0, seed=seed))

    assert say(1) == say(1)
    assert len({say(1), say(2), say(3)}) > 1
    assert len({say(None) for _ in range(3)}) > 1


def test_answers_are_the_same_alone_and_among_others(client: TriremeClient) -> None:
    prompts = [f"{word} is a word that" for word in ("Water", "Stone", "Light", "Grass")]
    alone = [text_of(generate(client, prompt, max_tokens=12)) for prompt in prompts]
    together = run_together(
        [lambda prompt=prompt: text_of(generate(client, prompt, max_tokens=12)) for prompt in prompts]
    )
    assert together == alone


def test_chat_is_asked_by_the_models_template(client: TriremeClient) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
    chunks = list(client.generate("plain", messages=messages, sampling_parameters=GREEDY))
    assert "Paris" in text_of(chunks)


def test_structured_output_is_of_the_schema(client: TriremeClient) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}, "size": {"enum": [1, 2]}},
              "required": ["city", "size"], "additionalProperties": False}  # fmt: skip
    asked = [{"role": "user", "content": "Give me a city of France and its size as JSON."}]
    sampling = {"temperature": 0, "max_tokens": 200, "structured_outputs": {"json": schema}}
    found = json.loads(text_of(client.generate("plain", messages=asked, sampling_parameters=sampling)))
    assert set(found) == {"city", "size"}
    assert text_of(generate(client, structured_outputs={"choice": ["yes (1)", "no [2]"]})) in ("yes (1)", "no [2]")


def test_logprobs_are_of_the_tokens(client: TriremeClient) -> None:
    chunks = generate(client, logprobs=0, max_tokens=5)
    tokens = [entry for chunk in chunks for token in chunk.logprobs for entry in token.values()]
    assert "".join(entry["decoded_token"] for entry in tokens) == text_of(chunks)
    assert all(entry["logprob"] <= 0 for entry in tokens)


def test_a_long_request_does_not_hold_up_a_short_one(client: TriremeClient) -> None:
    long = client.generate("plain", PROMPT, sampling_parameters={"max_tokens": 900, "ignore_eos": True})
    next(long)
    assert len(generate(client, max_tokens=3, ignore_eos=True)) == 3
    told_meanwhile = sum(1 for _ in zip(range(100), long, strict=False))
    assert told_meanwhile == 100, "the long request ended before the short one was answered"
    long.close()


def test_a_cancelled_request_gives_its_place_up(server: TritonServer, client: TriremeClient) -> None:
    before = metric(server, "trireme_generation_output_tokens_total")
    for _ in range(10):
        stream = client.generate("plain", PROMPT, sampling_parameters={"max_tokens": 1000, "ignore_eos": True})
        next(stream)
        stream.close()
    wait_until(lambda: metric(server, "trireme_generation_running") == 0, "no request ran any more")
    assert metric(server, "trireme_generation_output_tokens_total") - before < 5000
    assert len(generate(client, max_tokens=3, ignore_eos=True)) == 3


def test_more_than_the_cache_holds_is_answered_all_the_same(client: TriremeClient) -> None:
    """Six times 300 tokens, of which the cache holds 1536. What is computed again may go on in other words."""
    asked = [lambda: generate(client, stream=False, max_tokens=300, ignore_eos=True)[0] for _ in range(6)]
    assert [answer.num_output_tokens for answer in run_together(asked)] == [300] * 6


def test_a_prefix_seen_before_is_not_computed_again(server: TritonServer, client: TriremeClient) -> None:
    prompt = "".join(f"Line {number} of a long letter. " for number in range(80))
    first = steps_of(server, "plain", lambda: generate(client, prompt, max_tokens=1))
    second = steps_of(server, "plain", lambda: generate(client, prompt + "So", max_tokens=1))
    assert first >= 600 / STEP_TOKENS
    assert second <= 3


def test_speculation_takes_fewer_steps_for_the_same_text(server: TritonServer, client: TriremeClient) -> None:
    plain = generate(client, REPEATING, max_tokens=60)
    answers = []

    def ask() -> None:
        answers.extend(generate(client, REPEATING, model="lookup", max_tokens=60))

    steps = steps_of(
        server, "lookup", lambda: answers.extend(generate(client, REPEATING, model="lookup", max_tokens=60))
    )
    assert text_of(answers) == text_of(plain)
    assert steps < 40


REFUSED = {
    "no prompt": ({}, "invalid_request (prompt)"),
    "empty prompt": ({"text_input": b""}, "invalid_request (prompt)"),
    "two prompts": ({"text_input": b"a", "messages": b"[]"}, "invalid_request (prompt)"),
    "no messages": ({"messages": b"[]"}, "invalid_request (messages)"),
    "an image": ({"messages": b'[{"role":"user","content":[{"type":"image_url"}]}]'}, "unsupported (messages[0].c"),
    "no UTF-8": ({"text_input": b"ab\xff"}, "invalid_request (prompt): is not UTF-8: byte 0xff at position 2"),
    "long": ({"text_input": b"word " * 2000}, "context_length_exceeded (prompt): the prompt has 2001 tokens; the "
             f"model's context is {CONTEXT_TOKENS} tokens"),
    "a million characters": ({"text_input": b"word " * 200_000}, "the prompt has 200001 tokens"),
    "too much together": ({"text_input": b"a", "sampling": {"max_tokens": CONTEXT_TOKENS}},
                          f"(max_tokens): the prompt has 1 tokens and max_tokens is {CONTEXT_TOKENS}"),
    "max_tokens 0": ({"text_input": b"a", "sampling": {"max_tokens": 0}}, "invalid_request (max_tokens)"),
    "hot": ({"text_input": b"a", "sampling": {"temperature": "hot"}}, "invalid_request (temperature)"),
    "two answers": ({"text_input": b"a", "sampling": {"n": 2}}, "unsupported (n)"),
    "unknown": ({"text_input": b"a", "sampling": {"warmth": 1}}, "unsupported (warmth)"),
    "no such adapter": ({"text_input": b"a", "sampling": {"lora_name": "x"}}, "(lora_name)"),
    "no schema": ({"text_input": b"a", "sampling": {"structured_outputs": {"json": {"type": "nosuch"}}}},
                  "invalid_request (structured_outputs)"),
    "no JSON": ({"text_input": b"a", "sampling_parameters": b"{"}, "invalid_request (sampling_parameters)"),
}  # fmt: skip


def test_bad_requests_are_refused_by_name_and_the_next_is_answered(server: TritonServer, client: TriremeClient) -> None:
    wrong = {}
    with OperatorClient(server.grpc_address) as triton:
        for case, (inputs, expected) in REFUSED.items():
            tensors = {name: np.array([value], np.object_) for name, value in inputs.items() if name != "sampling"}
            if "sampling" in inputs:
                tensors["sampling_parameters"] = np.array([json.dumps(inputs["sampling"]).encode()], np.object_)
            with pytest.raises(ClientError) as refused:
                triton.infer("plain", tensors, DEADLINE_SECONDS)
            if expected not in str(refused.value):
                wrong[case] = str(refused.value)
    assert not wrong
    assert len(generate(client, max_tokens=3, ignore_eos=True)) == 3


# Now and then tritonserver 24.10 itself aborts when the process of a model is killed amid a stream: not in every run.
@pytest.mark.slow
def test_an_engine_that_dies_ends_its_streams_and_nothing_else(server: TritonServer, client: TriremeClient) -> None:
    """The last test of the module: it leaves the model unloaded."""
    # Where a stream was cancelled before, tritonserver 24.10 leaves those of a dead process open until their deadline.
    sampling = {"max_tokens": 1000, "ignore_eos": True}
    stream = client.generate("plain", PROMPT, sampling_parameters=sampling, deadline_ms=8000)
    next(stream)
    (stub,) = [
        child
        for child in psutil.Process(server.pid).children(recursive=True)
        if "/plain/1/model.py" in " ".join(child.cmdline())
    ]
    os.kill(stub.pid, signal.SIGKILL)
    with pytest.raises(ClientError):
        list(stream)
    with OperatorClient(server.grpc_address) as triton:
        value = np.array([[b"still here"]], np.object_)
        assert triton.infer("identity", {"BYTES": value}, DEADLINE_SECONDS).outputs["BYTES_OUT"] == value
        os.utime(server.flags.repository_dir / "plain" / "1")
        triton.load("plain", DEADLINE_SECONDS)
    assert len(generate(client, max_tokens=3, ignore_eos=True)) == 3


def run_together(calls) -> list:
    """Each call in a thread of its own; what they return, in their order."""
    found = [None] * len(calls)

    def run(place: int) -> None:
        found[place] = calls[place]()

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_SECONDS)
    return found
