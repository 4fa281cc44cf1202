from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trireme_gateway.errors import ApiError
from trireme_gateway.fields import ChatFields, CompletionFields, EmbeddingFields, read_fields

CHAT = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
SCHEMALESS = {"name": "n"}
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def read(fields, kind=ChatFields):
    return read_fields(kind, json.dumps(fields).encode())


def refused(fields, kind=ChatFields):
    with pytest.raises(ApiError) as caught:
        read(fields, kind)
    assert caught.value.status == 400
    return caught.value


def test_answer_without_max_tokens_may_fill_the_context():
    assert read(CHAT).sampling() == {"max_tokens": None}


def test_fields_reach_the_engine_by_the_contracts_names():
    response = read({**CHAT, "max_completion_tokens": 5, "temperature": 0, "seed": -1, "logprobs": True, "stop": "x"})
    assert response.sampling() == {"max_tokens": 5, "temperature": 0, "seed": 2**63 - 1, "logprobs": 0, "stop": "x"}


def test_null_counts_as_absent():
    assert read({**CHAT, "temperature": None, "n": None, "tools": None, "nonsense": None}) == read(CHAT)


@pytest.mark.parametrize(
    "fields",
    [
        *({"n": 1}, {"tools": []}, {"tool_choice": "none"}, {"modalities": ["text"]}, {"logit_bias": {}}),
        *({"store": True}, {"metadata": {"run": "7"}}, {"reasoning_effort": "high"}, {"service_tier": "flex"}),
    ],
)
def test_values_that_change_nothing_are_taken(fields):
    assert read({**CHAT, **fields}) == read(CHAT)


def test_hints_in_messages_change_nothing():
    part = {"type": "text", "text": "hello", "cache_control": {"type": "ephemeral"}}
    message = {"role": "user", "content": [part], "name": "anna", "reasoning_content": "", "tool_calls": None}
    (plain,) = read({**CHAT, "messages": [message]}).messages
    assert plain.plain() == CHAT["messages"][0]


def test_true_is_not_a_number_of_choices():
    assert refused({**CHAT, "n": True}).param == "n"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [CHAT["messages"][0], {"role": "user"}]}, "messages[1].content"),
        ({"messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages[0].colour"),
        ({"stop": ["a", 3]}, "stop[1]"),
        ({"stream_options": {"include_usage": "yes"}, "stream": True}, "stream_options.include_usage"),
        ({"response_format": {"type": "json_schema", "json_schema": SCHEMALESS}}, "response_format.json_schema.schema"),
    ],
)  # fmt: skip
def test_the_wrong_place_is_named(fields, param):
    assert refused({**CHAT, **fields}).param == param


def test_token_ids_are_rejected_by_name():
    for prompt in ([1, 2], [[1, 2]]):
        error = refused({"model": "m", "prompt": prompt}, CompletionFields)
        assert (error.param, error.code) == ("prompt", "invalid_type")


@given(st.dictionaries(st.sampled_from(["model", "messages", "prompt", "input", "stop", "n", "seed", "x"]), ANYTHING))
def test_whatever_comes_is_parsed_or_rejected(fields):
    for kind in (ChatFields, CompletionFields, EmbeddingFields):
        with contextlib.suppress(ApiError):
            read(fields, kind)


@given(st.binary())
def test_bytes_that_are_not_json_are_rejected(body):
    with pytest.raises(ApiError):
        read_fields(ChatFields, body)
