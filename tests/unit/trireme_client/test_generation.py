"""Generation: the contract's tensors, routes, affinity."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections import Counter

import numpy as np
import pytest
from trireme_client import (
    AsyncTriremeClient,
    DeadlineError,
    FakeServer,
    InvalidInputError,
    InvalidRequestError,
    ModelDiedError,
    ServerFaultError,
    TriremeClient,
    UnavailableError,
    UnsupportedError,
)
from trireme_client.spec import Pin

from tests.deadlines import scaled


def words(prompt):
    return [f"{word} " for word in prompt.split()]


@pytest.fixture
def fake():
    with FakeServer() as server:
        server.add_generation_model("chat", words)
        yield server


def add_route(server, variants, *, reports=None, leave_after_ms=None, stream_from=None):
    """A route that names the first of its variants not tried yet, and the variant's engine ``stream_from``."""

    def decide(_):
        parameters = server.requests[-1].parameters
        if "report" in parameters:
            if reports is not None:
                reports.append(json.loads(parameters["report"]))
            names = [""]
        else:
            tried = {entry.split(":")[0] for entry in parameters.get("tried", "").split(",")}
            names = [variant for variant in variants if variant not in tried]
        reason = {"reason": "fallback" if "tried" in parameters else "requested_tier", "leave_after_ms": leave_after_ms}
        if stream_from is not None:
            reason["stream_from"] = stream_from
        outputs = {"VARIANT": names[0], "VARIANT_VERSION": "7", "ROUTE_REASON": json.dumps(reason)}
        return {name: np.array([text.encode()], object) for name, text in outputs.items()}

    server.add_model(
        "text_generation",
        inputs={"PROMPT_CHARACTERS": ("INT32", [1])},
        outputs={name: ("BYTES", [1]) for name in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON")},
        compute=decide,
    )


def text(chunks):
    return "".join(chunk.text for chunk in chunks)


def test_a_text_is_continued_chunk_by_chunk(fake, connect):
    chunks = list(connect(fake.address).generate("chat", "one two", sampling_parameters={"max_tokens": 9}))
    assert [chunk.text for chunk in chunks] == ["one ", "two ", ""]
    assert [chunk.finish_reason for chunk in chunks] == [None, None, "stop"]
    assert [chunk.num_output_tokens for chunk in chunks] == [1, 1, 0]
    assert {chunk.num_input_tokens for chunk in chunks} == {2}
    assert {(chunk.model, chunk.version, chunk.reason) for chunk in chunks} == {("chat", "1", "called by name")}
    inputs = fake.requests[-1].inputs
    assert json.loads(inputs["sampling_parameters"][0]) == {"max_tokens": 9}
    assert inputs["stream"].tolist() == inputs["exclude_input_in_output"].tolist() == [True]
    assert inputs["return_logprobs"].tolist() == [False]


def test_without_streaming_the_text_is_one_chunk(fake, connect):
    chunks = list(connect(fake.address).generate("chat", "one two", stream=False))
    assert [chunk.text for chunk in chunks] == ["one two "]


def test_a_chat_reaches_the_model_as_messages(fake, connect):
    messages = [{"role": "user", "content": "né"}]
    list(connect(fake.address).generate("chat", messages=messages))
    inputs = fake.requests[-1].inputs
    assert json.loads(inputs["messages"][0]) == messages
    assert "text_input" not in inputs


def test_a_model_without_the_optional_tensors_receives_none_of_them(fake, connect):
    fake.add_model(
        "plain", inputs={"text_input": ("BYTES", [1])}, outputs={"text_output": ("BYTES", [1])},
        stream=lambda _: [{"text_output": np.array([b"yes"], object)}],
    )  # fmt: skip
    (chunk,) = connect(fake.address).generate("plain", "a question")
    assert (chunk.text, chunk.finish_reason, chunk.num_input_tokens, chunk.logprobs) == ("yes", None, None, None)
    with pytest.raises(InvalidInputError, match="messages"):
        list(connect(fake.address).generate("plain", messages=[]))


@pytest.mark.parametrize("prompt", [{}, {"text": "a", "messages": []}])
def test_exactly_one_of_text_and_messages_is_accepted(fake, connect, prompt):
    with pytest.raises(InvalidRequestError, match="either text or messages"):
        list(connect(fake.address).generate("chat", **prompt))


def test_sampling_parameters_that_are_not_json_are_rejected_before_sending(fake, connect):
    with pytest.raises(InvalidInputError, match="sampling_parameters"):
        list(connect(fake.address).generate("chat", "a", sampling_parameters={"stop": {1}}))
    assert fake.requests == []


def test_an_invalid_character_is_rejected_with_the_tensors_name(fake, connect):
    with pytest.raises(InvalidInputError, match="text_input"):
        list(connect(fake.address).generate("chat", "a \ud800"))


def endless(stopped):
    try:
        while True:
            yield "on "
    finally:
        stopped.set()


def test_closing_the_iterator_cancels_the_request(fake):
    stopped = threading.Event()
    fake.add_generation_model("endless", lambda _: endless(stopped))
    with TriremeClient(fake.address) as client:
        chunks = client.generate("endless", "go")
        next(chunks)
        chunks.close()
        assert stopped.wait(scaled(5))


async def leave_after_the_first_chunk(client):
    chunks = client.generate("endless", "go")
    async for _ in chunks:
        break
    await chunks.aclose()


def test_leaving_the_loop_cancels_the_request_in_asyncio(fake):
    stopped = threading.Event()
    fake.add_generation_model("endless", lambda _: endless(stopped))

    async def leave():
        async with AsyncTriremeClient(fake.address) as client:
            await leave_after_the_first_chunk(client)
            return await asyncio.to_thread(stopped.wait, scaled(5))

    assert asyncio.run(leave())


def test_a_cancelled_stream_does_not_affect_the_next_event_loop(fake, caplog):
    """Grpc.aio raises in a later loop for the events of a closed one, and loses the later loop's own events."""
    fake.add_generation_model("endless", lambda _: endless(threading.Event()))

    async def leave():
        async with AsyncTriremeClient(fake.address) as client:
            await leave_after_the_first_chunk(client)

    for _ in range(20):
        asyncio.run(asyncio.wait_for(leave(), scaled(20)))
    assert "Event loop is closed" not in caplog.text


def test_the_engine_that_a_variant_is_pinned_to_is_called_directly(fake, connect):
    """Tritonserver does not forward a cancellation to the steps of an ensemble."""
    fake.add_generation_model("engine", words)
    client = connect(fake.address)
    for version in ("3", "4"):
        fake.add_generation_model("variant", lambda _: ["ensemble"], pin=Pin("engine", version))
        chunks = list(client.generate("variant", "one two"))
        assert text(chunks) == "one two "
        assert {chunk.model for chunk in chunks} == {"variant"}
        assert (fake.requests[-1].model, fake.requests[-1].version) == ("engine", version)


def test_a_missing_pinned_version_is_called_through_the_variant(fake, connect):
    fake.add_generation_model("variant", lambda _: ["ensemble"], pin=Pin("engine", "3"))
    assert text(connect(fake.address).generate("variant", "one two")) == "ensemble"


def test_the_deadline_limits_the_whole_text(fake, connect):
    fake.add_generation_model("endless", lambda _: endless(threading.Event()))
    with pytest.raises(DeadlineError):
        list(connect(fake.address).generate("endless", "go", deadline_ms=200))


def test_a_route_names_the_variant_and_receives_a_report_of_its_pace(fake, connect):
    reports = []
    add_route(fake, ["chat"], reports=reports)
    chunks = list(connect(fake.address).generate("text_generation", "one two three", tier="economy", max_ttft_ms=250))
    assert text(chunks) == "one two three "
    who = {(chunk.model, chunk.version, json.loads(chunk.reason)["reason"]) for chunk in chunks}
    assert who == {("chat", "7", "requested_tier")}
    decided, streamed, reported = fake.requests
    assert dict(decided.parameters, timeout=0) == {"tier": "economy", "max_ttft_ms": 250, "timeout": 0}
    assert decided.inputs["PROMPT_CHARACTERS"].tolist() == [13]
    assert decided.request_id == streamed.request_id == reported.request_id
    (report,) = reports
    assert report["variant"] == "chat"
    assert report["ttft_ms"] > 0
    assert report["ms_per_token"] > 0
    assert "fault" not in report


def test_the_engine_that_a_route_names_is_called_without_reading_configurations_again(fake, connect):
    fake.add_generation_model("engine", words)
    add_route(fake, ["chat"], stream_from={"model": "engine", "version": "3"})
    client = connect(fake.address)
    read = []
    for _ in range(2):
        chunks = list(client.generate("text_generation", "one two"))
        assert text(chunks) == "one two "
        assert {(chunk.model, chunk.version) for chunk in chunks} == {("chat", "7")}
        read.append(fake.calls["ModelConfig"])
    assert [(request.model, request.version) for request in fake.requests].count(("engine", "3")) == 2
    assert read[0] == read[1]


def test_an_engine_missing_on_the_replica_is_called_through_its_variant(fake, connect):
    add_route(fake, ["chat"], stream_from={"model": "engine", "version": "3"})
    assert text(connect(fake.address).generate("text_generation", "one two")) == "one two "


def test_before_the_first_token_another_variant_is_tried(fake, connect):
    fake.add_generation_model("other", words)
    add_route(fake, ["chat", "other"])
    fake.fail_next("chat", "INTERNAL", "the engine died")
    chunks = list(connect(fake.address).generate("text_generation", "one"))
    assert text(chunks) == "one "
    assert {chunk.model for chunk in chunks} == {"other"}
    asked = [request.parameters["tried"] for request in fake.requests if "tried" in request.parameters]
    assert asked == ["chat:error"]


def test_a_variant_that_is_not_loaded_is_replaced_by_another(fake, connect):
    add_route(fake, ["absent", "chat"])
    chunks = list(connect(fake.address).generate("text_generation", "one"))
    assert {chunk.model for chunk in chunks} == {"chat"}
    assert [request.parameters["tried"] for request in fake.requests if "tried" in request.parameters] == [
        "absent:not_ready"
    ]


def test_a_variant_without_a_token_in_time_is_replaced(fake, connect):
    def silent(_):
        time.sleep(2)
        yield "late "

    fake.add_generation_model("silent", silent)
    add_route(fake, ["silent", "chat"], leave_after_ms=100)
    chunks = list(connect(fake.address).generate("text_generation", "one"))
    assert {chunk.model for chunk in chunks} == {"chat"}
    assert [request.parameters["tried"] for request in fake.requests if "tried" in request.parameters] == [
        "silent:late"
    ]


def test_a_deadline_before_the_first_token_is_reported(fake, connect):
    def silent(_):
        time.sleep(2)
        yield "late "

    reports = []
    fake.add_generation_model("silent", silent)
    add_route(fake, ["silent", "chat"], reports=reports)
    with pytest.raises(DeadlineError):
        list(connect(fake.address).generate("text_generation", "one", deadline_ms=200))
    assert reports == [{"variant": "silent", "fault": "late"}]


def test_after_the_first_token_nothing_is_retried(fake):
    def break_off(_):
        yield "one "
        raise RuntimeError("the engine died")

    reports = []
    fake.add_generation_model("fragile", break_off)
    add_route(fake, ["fragile", "chat"], reports=reports)
    with TriremeClient(fake.address) as client:
        chunks = client.generate("text_generation", "one")
        assert next(chunks).text == "one "
        with pytest.raises(ServerFaultError, match="the engine died"):
            next(chunks)
    assert reports[0]["fault"] == "error"


@pytest.mark.parametrize("problem", ["unsupported (logprobs): not here", "context_length_exceeded (prompt): too long"])
def test_a_request_that_one_variant_does_not_support_goes_to_another(fake, connect, problem):
    fake.add_generation_model("other", words)
    add_route(fake, ["chat", "other"])
    fake.fail_next("chat", "UNIMPLEMENTED", problem)
    chunks = list(connect(fake.address).generate("text_generation", "one"))
    assert {chunk.model for chunk in chunks} == {"other"}
    asked = [request.parameters["tried"] for request in fake.requests if "tried" in request.parameters]
    assert asked == ["chat:unsupported"]


def test_an_invalid_request_is_not_tried_on_another_variant(fake, connect):
    add_route(fake, ["chat", "other"])
    fake.fail_next("chat", "INVALID_ARGUMENT", "temperature is hot")
    with pytest.raises(InvalidRequestError, match="temperature is hot"):
        list(connect(fake.address).generate("text_generation", "one"))
    assert not [request for request in fake.requests if "tried" in request.parameters]


@pytest.mark.parametrize(
    ("problem", "kind"), [("the engine died", ServerFaultError), ("unsupported (logprobs): not here", UnsupportedError)]
)
@pytest.mark.parametrize("refusal", ["UNAVAILABLE", "INVALID_ARGUMENT"])
def test_without_another_variant_the_error_is_the_variants_own(fake, connect, problem, kind, refusal):
    def die(_):
        fake.fail_next("text_generation", refusal, "no variant can answer now", times=9)
        raise RuntimeError(problem)

    fake.add_generation_model("fragile", die)
    add_route(fake, ["fragile"])
    with pytest.raises(kind, match=re.escape(problem)):
        list(connect(fake.address).generate("text_generation", "one"))


def test_prompts_with_the_same_beginning_have_the_same_key(fake, connect):
    client = connect(fake.address)
    system = "s" * 300
    for prompt in (system + "one", system + "two", "three"):
        list(client.generate("chat", prompt))
    first, second, third = (request.headers["x-trireme-prefix"] for request in fake.requests)
    assert first == second != third


def test_prompts_with_the_same_beginning_go_to_one_replica():
    with FakeServer() as a, FakeServer() as b:
        for server in (a, b):
            server.add_generation_model("chat", words)
        with TriremeClient([a.address, b.address]) as client:
            for number in range(20):
                list(client.generate("chat", f"{'x' * 256} {number}"))
                list(client.generate("chat", f"prompt {number}"))
    at = [Counter(len(r.inputs["text_input"][0]) > 256 for r in server.requests) for server in (a, b)]
    assert sorted(counts[True] for counts in at) == [0, 20]
    assert all(counts[False] for counts in at)


def test_prompts_of_an_overloaded_replica_go_elsewhere():
    with FakeServer() as a, FakeServer() as b:
        for server in (a, b):
            server.add_generation_model("endless", lambda _: endless(threading.Event()))
        with TriremeClient([a.address, b.address]) as client:
            running = [client.generate("endless", "the same prompt") for _ in range(8)]
            for chunks in running:
                next(chunks)
            busy = sorted(len(server.requests) for server in (a, b))
            for chunks in running:
                chunks.close()
    assert busy == [3, 5]


@pytest.mark.parametrize("second", ["missing", "broken"])
def test_when_every_variant_fails_the_first_reason_is_reported(fake, connect, second):
    fake.add_generation_model("stuck", words)
    fake.add_generation_model("broken", words)
    fake.fail_next("stuck", "INTERNAL", "Stub process 'stuck_0_0' is not healthy.")
    fake.fail_next("broken", "INTERNAL", "out of memory")
    add_route(fake, ["stuck", second])
    with pytest.raises(ModelDiedError, match="stuck_0_0"):
        list(connect(fake.address).generate("text_generation", "one"))


def test_a_route_whose_only_variant_is_not_loaded_is_unavailable_not_unknown(fake, connect):
    add_route(fake, ["missing"])
    with pytest.raises(UnavailableError, match="the variant missing is not loaded"):
        list(connect(fake.address).generate("text_generation", "one"))
