"""Invalid requests get OpenAI's error object with the right status, ``param`` and numbers."""

from __future__ import annotations

import httpx
import pytest

CHAT = {"model": "scripted", "messages": [{"role": "user", "content": "say=2"}]}
COMPLETION = {"model": "scripted_small", "prompt": "say=2"}

TOO_LONG, UNSUPPORTED, INVALID = "context_length_exceeded", "unsupported_parameter", "invalid_value"
IMAGE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
TOOL = {"type": "function", "function": {"name": "f"}}


def words(count):
    return " ".join(["word"] * count)


CASES = [
    # fields that replace those of the good request, then status, param, code, and words of the message
    ("completions", {"prompt": words(60), "max_tokens": 10}, 400, "max_tokens", TOO_LONG, ("60", "10", "70", "64")),
    ("completions", {"prompt": words(70)}, 400, "prompt", TOO_LONG, ("70", "64")),
    ("completions", {"prompt": ""}, 400, "prompt", INVALID, ("empty",)),
    ("completions", {"prompt": []}, 400, "prompt", INVALID, ()),
    ("completions", {"prompt": [1, 2, 3]}, 400, "prompt", "invalid_type", ("token ids",)),
    ("completions", {"max_tokens": 0}, 400, "max_tokens", INVALID, ()),
    ("completions", {"max_tokens": -1}, 400, "max_tokens", INVALID, ()),
    ("completions", {"best_of": 2}, 400, "best_of", UNSUPPORTED, ()),
    ("completions", {"suffix": "x"}, 400, "suffix", UNSUPPORTED, ()),
    ("completions", {"top_k": 5}, 400, "top_k", UNSUPPORTED, ("scripted",)),
    ("chat/completions", {"messages": []}, 400, "messages", INVALID, ()),
    ("chat/completions", {"messages": None}, 400, "messages", "missing_required_parameter", ()),
    ("chat/completions", {"messages": [IMAGE]}, 400, "messages[0].content[0].type", INVALID, ("text",)),
    ("chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role", INVALID, ()),
    ("chat/completions", {"n": 2}, 400, "n", UNSUPPORTED, ()),
    ("chat/completions", {"logit_bias": {"5": 1}}, 400, "logit_bias", UNSUPPORTED, ()),
    ("chat/completions", {"top_logprobs": 2}, 400, "top_logprobs", INVALID, ("logprobs",)),
    ("chat/completions", {"tools": [TOOL]}, 400, "tools", UNSUPPORTED, ("response_format",)),
    ("chat/completions", {"temperature": "hot"}, 400, "temperature", INVALID, ("hot",)),
    ("chat/completions", {"temperature": 9}, 400, "temperature", INVALID, ("9",)),
    ("chat/completions", {"stop": list("abcde")}, 400, "stop", INVALID, ()),
    ("chat/completions", {"stream_options": {"include_usage": True}}, 400, "stream_options", INVALID, ()),
    ("chat/completions", {"temprature": 1}, 400, "temprature", "unknown_parameter", ()),
    ("chat/completions", {"response_format": {"type": "json_schema"}}, 400, "response_format.json_schema", INVALID, ()),
    ("chat/completions", {"presence_penalty": 0.5}, 400, "presence_penalty", UNSUPPORTED, ()),
    ("chat/completions", {"model": "nobody"}, 404, "model", "model_not_found", ("scripted, scripted_small",)),
    ("embeddings", {"model": "scripted", "input": "x"}, 400, "model", "model_mismatch", ()),
]  # fmt: skip


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "fields", "status", "param", "code", "said"), CASES, ids=[f"{case[0]}-{case[1]}"[:60] for case in CASES]
)
def test_wrong_request_is_rejected_and_the_next_one_works(gateway, path, fields, status, param, code, said, stream):
    good = {"embeddings": {}, "completions": COMPLETION, "chat/completions": CHAT}[path]
    streams = {"stream": True} if stream and path != "embeddings" and "stream_options" not in fields else {}
    answer = gateway.post(path, {**good, **streams, **fields})
    assert answer.status_code == status
    error = answer.json()["error"]
    assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
    for word in said:
        assert word in error["message"]
    assert gateway.post("chat/completions", CHAT).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"[]",
        b'{"model": "scripted", "prompt": "\xff\xfe"}',
        b'{"model": "scripted", "prompt": "\\ud800"}',
        b"[" * 100_000,
        b'{"model": "scripted", "prompt": "x", "temperature": NaN}',
    ],
    ids=["broken", "empty", "list", "no-utf8", "half-a-pair", "deep", "nan"],
)
def test_body_that_is_not_json_in_utf8_is_rejected(gateway, body):
    answer = gateway.post("completions", body)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_prompt_of_a_million_characters_is_rejected_with_its_number_of_tokens(gateway):
    answer = gateway.post("completions", {"model": "scripted", "prompt": "word " * 200_000})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"
    assert "200000 tokens" in answer.json()["error"]["message"]


def test_body_over_the_limit_is_rejected_with_and_without_its_length(gateway):
    body = b'{"model": "scripted", "prompt": "' + b"x" * (5 << 20) + b'"}'
    announced = gateway.post("completions", body)
    chunked = httpx.post(
        f"{gateway.url}/v1/completions", content=(body[i : i + 65536] for i in range(0, len(body), 65536))
    )
    for answer in (announced, chunked):
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_unknown_route_and_method_are_rejected_in_openais_form(gateway):
    assert httpx.post(f"{gateway.url}/v1/images/generations").json()["error"]["code"] == "not_found"
    refused = httpx.get(f"{gateway.url}/v1/completions")
    assert refused.status_code == 405
    assert refused.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("header", "value"), [("x-trireme-teir", "economy"), ("x-trireme-timeout-ms", "soon"), ("x-trireme-explain", "2")]
)
def test_wrong_header_is_rejected_by_name(gateway, header, value):
    answer = gateway.post("chat/completions", CHAT, **{header: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == header


@pytest.mark.parametrize("stream", [False, True])
def test_request_over_its_deadline_is_cancelled(gateway, stream):
    slow = {"model": "scripted", "prompt": "say=100 every_ms=500", "stream": stream}
    answer = gateway.post("completions", slow, **{"x-trireme-timeout-ms": "300"})
    if stream and answer.status_code == 200:
        assert '"code": "timeout"' in answer.text
    else:
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "timeout"


def test_kserve_routes_reach_triton_and_those_that_control_it_do_not(gateway, scripted):
    here = httpx.get(f"{gateway.url}/v2/models/scripted/config")
    there = httpx.get(f"http://{scripted.http_address}/v2/models/scripted/config")
    assert here.json() == there.json()
    assert httpx.get(f"{gateway.url}/v2/health/ready").status_code == 200
    asked = {"text_input": "say=2", "stream": False}
    assert httpx.post(f"{gateway.url}/v2/models/scripted/generate", json=asked).json()["text_output"] == "say=2w0 w1"
    for path in ("repository/index", "repository/models/scripted/unload", "systemsharedmemory/status", "trace/setting",
                 "models/scripted/trace/setting", "%72epository/index"):  # fmt: skip
        assert httpx.post(f"{gateway.url}/v2/{path}", json={}).status_code == 404
    assert httpx.post(f"{gateway.url}/v2/models/scripted/generate", content=b"x" * (5 << 20)).status_code == 413
