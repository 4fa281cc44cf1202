from __future__ import annotations

import pytest
from trireme_backends.generation.errors import (
    ContextLengthError,
    EngineError,
    InvalidRequestError,
    OverloadedError,
    UnsupportedError,
)
from trireme_client import DeadlineError, ModelDiedError, ServerFaultError, UnavailableError
from trireme_gateway.errors import GatewayError, from_client_error
from trireme_gateway.settings import Address, GatewaySettings


@pytest.mark.parametrize(
    ("error", "status", "param", "code"),
    [
        (InvalidRequestError("is -1", param="max_tokens"), 400, "max_completion_tokens", "invalid_value"),
        (ContextLengthError(70, None, 64), 400, "messages", "context_length_exceeded"),
        (UnsupportedError("no", param="structured_outputs.json"), 400, "response_format", "unsupported_parameter"),
        (OverloadedError("32 wait"), 503, None, "overloaded"),
        (EngineError("gone"), 500, None, "engine_failed"),
    ],
)
def test_engines_errors_keep_their_meaning_and_the_callers_names(error, status, param, code):
    renamed = {"max_tokens": "max_completion_tokens", "prompt": "messages", "structured_outputs": "response_format"}
    response = from_client_error(ServerFaultError("UNKNOWN", str(error)), renamed)
    assert (response.status, response.param, response.code) == (status, param, code)
    assert error.problem in response.message


def test_time_and_absence_have_statuses_of_their_own():
    for error, status in (
        (DeadlineError(5, sent=True), 504),
        (UnavailableError("lost"), 503),
        (ModelDiedError("INTERNAL", "Stub process 'a_0_0' is not healthy."), 503),
    ):
        answer = from_client_error(error)
        assert (answer.status, answer.headers) == (status, {"retry-after": "1"})


@pytest.mark.parametrize("text", ["8080", ":8080", "host:", "host:70000", "host:-1", "host:x"])
def test_invalid_address_is_rejected(text):
    with pytest.raises(GatewayError, match="--listen"):
        Address.parse(text, "--listen")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_no_keys(host):
    assert GatewaySettings("t:1", Address(host, 1)).keys_path is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_other_addresses_need_keys(host):
    with pytest.raises(GatewayError, match="--keys"):
        GatewaySettings("t:1", Address(host, 1))
