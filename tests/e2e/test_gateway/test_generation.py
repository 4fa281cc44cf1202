"""Chats and completions, whole and streamed, in OpenAI's format."""

from __future__ import annotations

import httpx
import pytest

from tests.e2e.gateway_process import events

SEVEN = "say=7 five words in all"


def chat(text, **fields):
    return {"model": "scripted", "messages": [{"role": "user", "content": text}], **fields}


def completion(prompt, **fields):
    return {"model": "scripted", "prompt": prompt, **fields}


def test_chat_answer_has_openais_form_and_counts_tokens(gateway):
    answer = gateway.post("chat/completions", chat(SEVEN)).json()
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {"role": "assistant", "content": "w0 w1 w2 w3 w4 w5 w6", "refusal": None}
    assert (choice["index"], choice["finish_reason"], choice["logprobs"]) == (0, "stop", None)
    assert answer["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}


def test_stream_equals_the_whole_answer(gateway):
    response = events(gateway.post("chat/completions", chat(SEVEN, stream=True)).text)
    deltas = [event["choices"][0]["delta"] for event in response]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "w0 w1 w2 w3 w4 w5 w6"
    assert [event["choices"][0]["finish_reason"] for event in response] == [None] * (len(response) - 1) + ["stop"]
    assert len({event["id"] for event in response}) == 1


def test_stream_reports_usage_only_on_request(gateway):
    without = events(gateway.post("chat/completions", chat(SEVEN, stream=True)).text)
    assert all(event["choices"] and "usage" not in event for event in without)
    options = {"include_usage": True}
    response = events(gateway.post("chat/completions", chat(SEVEN, stream=True, stream_options=options)).text)
    assert response[-1]["choices"] == []
    assert response[-1]["usage"] == {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    assert all(event["usage"] is None for event in response[:-1])


def test_without_max_tokens_the_model_ends_and_a_limited_one_reports_length(gateway):
    whole = gateway.post("completions", completion("say=40")).json()
    assert whole["usage"]["completion_tokens"] == 40
    assert whole["choices"][0]["finish_reason"] == "stop"
    cut = gateway.post("completions", completion("say=40", max_tokens=16)).json()
    assert cut["usage"]["completion_tokens"] == 16
    assert cut["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_chat_is_cut_by_either_name(gateway, name):
    answer = gateway.post("chat/completions", chat("say=40", **{name: 3})).json()
    assert answer["choices"][0]["message"]["content"] == "w0 w1 w2"
    assert answer["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_stop_text_ends_the_answer_and_is_not_part_of_it(gateway, stream):
    answer = gateway.post("completions", completion("say=40", stop=["w3", "w9"], stream=stream))
    response = events(answer.text) if stream else [answer.json()]
    assert "".join(event["choices"][0]["text"] for event in response) == "w0 w1 w2 "
    assert response[-1]["choices"][0]["finish_reason"] == "stop"


def test_prompts_of_a_list_are_answered_in_order(gateway):
    response = gateway.post("completions", completion(["say=2 a b", "one two"], echo=True)).json()
    assert [choice["text"] for choice in response["choices"]] == ["say=2 a bw0 w1", "one twoone two"]
    assert response["usage"] == {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    streamed = events(gateway.post("completions", completion(["say=2 a b", "one two"], stream=True)).text)
    texts = {0: "", 1: ""}
    for event in streamed:
        texts[event["choices"][0]["index"]] += event["choices"][0]["text"]
    assert texts == {0: "w0 w1", 1: "one two"}


def test_chat_returns_log_probabilities(gateway):
    for stream in (False, True):
        answer = gateway.post("chat/completions", chat("say=2", logprobs=True, top_logprobs=2, stream=stream))
        response = events(answer.text) if stream else [answer.json()]
        tokens = [
            token for event in response for token in (event["choices"][0]["logprobs"] or {"content": []})["content"]
        ]
        assert [token["token"] for token in tokens] == ["w0", "w1"]
        assert tokens[0]["bytes"] == list(b"w0")
        assert [(one["token"], one["logprob"]) for one in tokens[0]["top_logprobs"]] == [
            ("w0", -0.25),
            ("other0", -2.0),
        ]


def test_completion_returns_log_probabilities(gateway):
    (choice,) = gateway.post("completions", completion("say=2", logprobs=1)).json()["choices"]
    assert choice["logprobs"]["tokens"] == ["w0", "w1"]
    assert choice["logprobs"]["token_logprobs"] == [-0.25, -0.25]
    assert choice["logprobs"]["text_offset"] == [0, 2]
    assert choice["logprobs"]["top_logprobs"][0] == {"w0": -0.25, "other0": -2.0}


@pytest.mark.parametrize(
    "form",
    [
        {"type": "json_object"},
        {"type": "json_schema", "json_schema": {"name": "empty", "schema": {"type": "object"}, "strict": True}},
    ],
)
def test_response_format_reaches_the_engine(gateway, form):
    answer = gateway.post("chat/completions", chat("say=3", response_format=form)).json()
    assert answer["choices"][0]["message"]["content"] == "{}"


def test_message_of_an_answer_can_be_sent_again(gateway):
    first = gateway.post("chat/completions", chat("say=2")).json()["choices"][0]["message"]
    parts = [{"type": "text", "text": "say=1 "}, {"type": "text", "text": "more"}]
    again = {"model": "scripted", "messages": [{"role": "developer", "content": "Be brief."}, first,
                                               {"role": "user", "content": parts}]}  # fmt: skip
    answer = gateway.post("chat/completions", again).json()
    assert answer["choices"][0]["message"]["content"] == "w0"
    assert answer["usage"]["prompt_tokens"] == 6


def test_headers_name_the_variant_and_the_request_is_in_the_log(gateway):
    for stream in (False, True):
        name = f"mine-{stream}"
        answer = gateway.post("chat/completions", chat("say=2", stream=stream), **{"x-request-id": name})
        assert answer.headers["x-request-id"] == name
        assert answer.headers["x-trireme-variant"] == "scripted"
        assert answer.headers["x-trireme-version"] == "1"
        assert answer.headers["x-trireme-reason"] == "called by name"
        line = gateway.wait_for_line(request_id=name)
        assert (line["model"], line["version"], line["status"]) == ("scripted", "1", 200)
        assert (line["input_tokens"], line["output_tokens"]) == (1, 2)


def test_models_are_tasks_and_variants(gateway):
    listed = httpx.get(f"{gateway.url}/v1/models").json()
    assert [model["id"] for model in listed["data"]] == ["pinned", "scripted", "scripted_small"]
    assert httpx.get(f"{gateway.url}/v1/models/scripted").json() == listed["data"][1]
    assert httpx.get(f"{gateway.url}/v1/models/nobody").status_code == 404


def test_metrics_count_requests_and_tokens(gateway):
    labels = {"endpoint": "/v1/completions", "model": "scripted", "version": "1", "status": "200"}
    before = [gateway.metric("trireme_gateway_requests_total", **labels)]
    before += [gateway.metric(f"trireme_gateway_{kind}_tokens_total", model="scripted") for kind in ("input", "output")]
    gateway.post("completions", completion("say=7 a b"))
    after = [gateway.metric("trireme_gateway_requests_total", **labels)]
    after += [gateway.metric(f"trireme_gateway_{kind}_tokens_total", model="scripted") for kind in ("input", "output")]
    assert [late - early for early, late in zip(before, after, strict=True)] == [1, 3, 7]
    assert gateway.metric("trireme_gateway_streams") == 0
