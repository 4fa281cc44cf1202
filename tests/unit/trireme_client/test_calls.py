"""Calls, with both kinds of client."""

from __future__ import annotations

import logging
import threading
import time

import numpy as np
import pytest
from opentelemetry import trace
from trireme_client import (
    ClientError,
    ClosedError,
    DeadlineError,
    FakeServer,
    HedgePolicy,
    InvalidInputError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    QueueTimeoutError,
    RetryPolicy,
    SequenceStep,
    ServerFaultError,
    UnavailableError,
)

from tests.deadlines import scaled
from tests.unit.trireme_client.conftest import act_when, silent_port

ROW = {"X": [[1.0, 2.0]]}


def test_the_spec_of_a_model_is_fetched_once(fake, connect):
    client = connect(fake.address)
    for _ in range(5):
        assert client.infer("double", ROW)["Y"].tolist() == [[2.0, 4.0]]
    assert fake.calls["ModelConfig"] == 1
    assert fake.calls["ModelInfer"] == 5


def test_the_spec_of_a_replaced_model_is_fetched_again_before_a_request_is_rejected(fake, connect, monkeypatch):
    client = connect(fake.address)
    client.infer("double", ROW)
    fake.add_model(
        "double",
        inputs={"X": ("FP64", [2])},
        outputs={"Y": ("FP64", [2])},
        max_batch_size=8,
        compute=lambda i: {"Y": i["X"]},
    )
    monkeypatch.setattr("trireme_client.spec_cache._FRESH_SPEC_SECONDS", 0.0)
    assert client.infer("double", {"X": np.ones((1, 2))})["Y"].dtype == np.float64


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([[1.0, 2.0, 3.0]], "expected shape [-1, 2], got [1, 3]"),
        ([1.0, 2.0], "expected shape [-1, 2], got [2]"),
        (np.ones((1, 2)), "float64"),
    ],
)
def test_an_invalid_tensor_is_rejected_here_with_its_name(fake, connect, value, reason):
    with pytest.raises(InvalidInputError) as caught:
        connect(fake.address).infer("double", {"X": value}, request_id="mine")
    assert reason in str(caught.value)
    assert (caught.value.tensor, caught.value.model, caught.value.request_id) == ("X", "double", "mine")
    assert caught.value.attempts == fake.calls["ModelInfer"] == 0


@pytest.mark.parametrize(
    ("given", "request_id", "header"),
    [
        ({"request_id": "r-1"}, "r-1", "r-1"),
        ({"headers": {"X-Request-Id": "r-2"}}, "r-2", "r-2"),
        # No header can hold it; the server still receives it.
        ({"request_id": "é\n"}, "é\n", None),
    ],
)
def test_proxies_and_servers_see_the_same_request_id(fake, connect, given, request_id, header):
    assert connect(fake.address).infer("double", ROW, **given).request_id == request_id
    seen = fake.requests[-1]
    assert (seen.request_id, seen.headers.get("x-request-id")) == (request_id, header)


def test_a_request_without_an_id_gets_one_that_proxies_also_see(fake, connect):
    connect(fake.address).infer("double", ROW)
    seen = fake.requests[-1]
    assert seen.request_id
    assert seen.headers["x-request-id"] == seen.request_id


def test_missing_and_unknown_tensors_are_reported_by_name(fake, connect):
    client = connect(fake.address)
    with pytest.raises(InvalidInputError, match="'X': is missing"):
        client.infer("double", {})
    with pytest.raises(InvalidInputError, match=r"is not an input of model .*; available: X"):
        client.infer("double", {"Z": [1.0]})
    with pytest.raises(InvalidRequestError, match="no output 'Z'; available: Y"):
        client.infer("double", ROW, ["Z"])
    with pytest.raises(KeyError, match="returned no output 'Z'; available: Y"):
        client.infer("double", ROW)["Z"]


def test_an_optional_input_may_be_omitted(fake, connect):
    client = connect(fake.address)
    assert client.infer("echo", {"TEXT": ["a"]})["TEXT"].tolist() == [b"a"]
    assert client.infer("echo", {"TEXT": ["a"], "HINT": "h"})["TEXT"].tolist() == [b"a"]
    assert [sorted(request.inputs) for request in fake.requests] == [["TEXT"], ["HINT", "TEXT"]]


def test_parameters_keep_their_types_and_headers_arrive(fake, connect):
    client = connect(fake.address, headers={"X-Team": "a"})
    client.infer(
        "double", ROW, parameters={"lang": "de", "k": 7, "flag": True, "f": 0.5}, headers={"traceparent": "00-1"}
    )
    (request,) = fake.requests
    sent = {key: value for key, value in request.parameters.items() if key != "timeout"}
    assert sent == {"lang": "de", "k": 7, "flag": True, "f": 0.5}
    assert type(sent["flag"]) is bool
    assert (request.headers["x-team"], request.headers["traceparent"]) == ("a", "00-1")


@pytest.mark.parametrize("key", ["triton_x", "timeout", "priority", "sequence_id"])
def test_reserved_parameters_are_rejected(fake, connect, key):
    with pytest.raises(InvalidRequestError, match=f"'{key}' is reserved"):
        connect(fake.address).infer("double", ROW, parameters={key: 1})


@pytest.mark.parametrize("value", [None, [1], 2**63])
def test_parameters_of_other_types_are_rejected(fake, connect, value):
    with pytest.raises(InvalidRequestError, match="parameter 'k'"):
        connect(fake.address).infer("double", ROW, parameters={"k": value})


def test_a_message_over_the_limit_is_rejected_at_once_and_not_retried(fake, connect):
    fake.add_model(
        "big", inputs={"X": ("UINT8", [-1])}, outputs={"Y": ("UINT8", [-1])}, compute=lambda i: {"Y": i["X"]}
    )
    with pytest.raises(InvalidInputError, match=r"2,147,549,185 bytes, over the limit of 2,147,483,647"):
        connect(fake.address).infer("big", {"X": np.broadcast_to(np.uint8(0), (2**31 + 1,))})
    assert fake.calls["ModelInfer"] == 0


def test_large_messages_pass_with_default_settings(fake, connect):
    fake.add_model(
        "big",
        inputs={"X": ("UINT8", [-1])},
        outputs={"Y": ("UINT8", [-1])},
        compute=lambda _: {"Y": np.zeros(40_000_000)},
    )
    assert connect(fake.address).infer("big", {"X": np.zeros(5_000_000, np.uint8)})["Y"].nbytes == 40_000_000


def test_the_deadline_reaches_the_server_in_both_forms(fake, connect):
    client = connect(fake.address)
    client.infer("double", ROW)
    fake.delay("double", 60_000)
    with pytest.raises(DeadlineError) as caught:
        client.infer("double", ROW, deadline_ms=1000)
    assert caught.value.sent
    assert caught.value.deadline_ms == 1000
    assert caught.value.attempts == 1
    assert 0 < fake.requests[-1].parameters["timeout"] <= 1_000_000


def test_a_deadline_on_a_silent_port_passes_with_nothing_sent(connect):
    with silent_port() as address, pytest.raises(DeadlineError) as caught:
        connect(address).infer("double", ROW, deadline_ms=150)
    assert not caught.value.sent
    assert caught.value.attempts == 0


def test_a_port_that_refuses_connections_is_unavailable_with_nothing_sent(connect):
    with FakeServer() as gone:
        address = gone.address
    with pytest.raises(UnavailableError, match="before the request was sent") as caught:
        connect(address).infer("double", ROW, deadline_ms=5000)
    assert caught.value.attempts == 0


@pytest.mark.parametrize("deadline_ms", [0, 0.5, -1, float("nan"), float("inf")])
def test_a_deadline_under_a_millisecond_is_rejected(fake, connect, deadline_ms):
    with pytest.raises(InvalidRequestError, match="it must be at least 1 millisecond"):
        connect(fake.address).infer("double", ROW, deadline_ms=deadline_ms)


def test_a_lost_request_is_sent_again_once(fake, connect):
    client = connect(fake.address)
    fake.fail_next("double", "UNAVAILABLE", "Socket closed")
    assert client.infer("double", ROW).timings.attempts == 2
    fake.fail_next("double", "UNAVAILABLE", "Socket closed", times=2)
    with pytest.raises(UnavailableError) as caught:
        client.infer("double", ROW)
    assert caught.value.attempts == 2


def test_a_request_that_envoy_lost_twice_is_not_sent_again(fake, connect):
    client = connect(fake.address)
    fake.fail_next("double", "UNAVAILABLE", "not sent again: this request was lost with 2 processes", times=2)
    with pytest.raises(UnavailableError, match="not sent again"):
        client.infer("double", ROW)
    assert fake.calls["ModelInfer"] == 1


def test_the_last_failure_is_reported_when_attempts_are_used_up(fake, connect):
    client = connect(fake.address, retry=RetryPolicy(max_attempts=2))
    fake.fail_next("double", "UNAVAILABLE", "Socket closed", times=5)
    with pytest.raises(UnavailableError, match="in flight: Socket closed") as caught:
        client.infer("double", ROW)
    assert caught.value.attempts == fake.calls["ModelInfer"] == 2


def test_retries_can_be_disabled(fake, connect):
    client = connect(fake.address, retry=RetryPolicy(max_attempts=1))
    fake.fail_next("double", "UNAVAILABLE", "Socket closed")
    with pytest.raises(UnavailableError):
        client.infer("double", ROW)
    assert fake.calls["ModelInfer"] == 1


def test_retries_stay_within_a_tenth_of_the_calls(fake, connect):
    client = connect(fake.address, retry=RetryPolicy(backoff_ms=0, max_backoff_ms=0))
    fake.fail_next("double", "UNAVAILABLE", "Socket closed", times=1000)
    for _ in range(300):
        with pytest.raises(UnavailableError):
            client.infer("double", ROW)
    assert 300 < fake.calls["ModelInfer"] <= 330


@pytest.mark.parametrize("status", ["INVALID_ARGUMENT", "INTERNAL", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED"])
def test_permanent_failures_are_not_retried(fake, connect, status):
    fake.fail_next("double", status)
    kind = InvalidRequestError if status == "INVALID_ARGUMENT" else ServerFaultError
    with pytest.raises(kind, match="scripted failure"):
        connect(fake.address).infer("double", ROW)
    assert fake.calls["ModelInfer"] == 1


def test_a_request_of_a_sequence_is_never_sent_twice(fake, connect):
    fake.fail_next("double", "UNAVAILABLE", "Socket closed")
    with pytest.raises(UnavailableError):
        connect(fake.address).infer("double", ROW, sequence=SequenceStep(7, start=True))
    assert fake.calls["ModelInfer"] == 1
    assert fake.requests[0].parameters["sequence_id"] == 7


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[request id: 1] Request timeout expired", QueueTimeoutError),
        ("[request id: 1] Exceeds maximum queue size", OverloadedError),
        ("Request for unknown model: 'double' has no available versions", ModelNotFoundError),
    ],
)
def test_the_causes_of_tritons_unavailable_are_distinguished(fake, connect, message, kind):
    fake.fail_next("double", "UNAVAILABLE", message)
    with pytest.raises(kind):
        connect(fake.address).infer("double", ROW)
    assert fake.calls["ModelInfer"] == 1


def test_an_unknown_model_is_reported_with_the_available_ones(fake, connect):
    with pytest.raises(ModelNotFoundError, match="ready models: count, double, echo") as caught:
        connect(fake.address).infer("doubel", ROW, version=3)
    assert caught.value.known == ("count", "double", "echo")
    assert "version 3" in str(caught.value)


def test_an_attempts_own_deadline_leaves_time_for_another(fake, connect):
    client = connect(fake.address, retry=RetryPolicy(attempt_deadline_ms=500, backoff_ms=0))
    client.infer("double", ROW)
    fake.delay("double", 60_000)
    with act_when(lambda: len(fake.requests) == 2, lambda: fake.delay("double", 0)):
        assert client.infer("double", ROW, deadline_ms=20_000).timings.attempts == 2


def test_a_slow_request_is_hedged_and_the_loser_cancelled(fake, connect):
    client = connect(fake.address, hedge=HedgePolicy(min_samples=40, budget_percent=10))
    cancelled = threading.Event()
    slow = threading.Event()

    def compute(inputs):
        if slow.is_set():
            slow.clear()
            cancelled.wait(scaled(10))
        return {"Y": inputs["X"]}

    fake.add_model("moody", inputs={"X": ("FP32", [1])}, outputs={"Y": ("FP32", [1])}, compute=compute)
    for _ in range(40):
        client.infer("moody", {"X": [1.0]})
    slow.set()
    assert client.infer("moody", {"X": [1.0]}, deadline_ms=9000).timings.attempts == 2
    cancelled.set()


def test_hedges_stay_within_their_budget(fake, connect):
    client = connect(fake.address, hedge=HedgePolicy(percentile=1, min_samples=1, min_delay_ms=0, budget_percent=5))
    for _ in range(200):
        client.infer("double", ROW)
    assert fake.calls["ModelInfer"] <= 210


def test_a_stream_yields_each_response_and_ends(fake, connect):
    client = connect(fake.address)
    assert [int(answer["I"][0]) for answer in client.stream("count", {"N": [5]})] == [0, 1, 2, 3, 4]
    assert list(client.stream("count", {"N": [0]})) == []


def test_a_stream_that_fails_later_raises_where_it_failed(fake, connect):
    def stream(_):
        yield {"I": [0]}
        raise RuntimeError("out of numbers")

    fake.add_model("short", inputs={"N": ("INT32", [1])}, outputs={"I": ("INT32", [1])}, stream=stream)
    client = connect(fake.address)
    with pytest.raises(ServerFaultError, match="out of numbers"):
        list(client.stream("short", {"N": [2]}))
    assert len(list(client.stream("count", {"N": [2]}))) == 2


def test_a_stream_may_be_retried_before_its_first_response(fake, connect):
    fake.fail_next("count", "UNAVAILABLE", "Socket closed")
    assert len(list(connect(fake.address).stream("count", {"N": [2]}))) == 2


def test_a_stream_respects_its_deadline(fake, connect):
    def stream(_):
        while True:
            yield {"I": [0]}
            time.sleep(0.01)

    fake.add_model("endless", inputs={"N": ("INT32", [1])}, outputs={"I": ("INT32", [1])}, stream=stream)
    with pytest.raises(DeadlineError):
        list(connect(fake.address).stream("endless", {"N": [0]}, deadline_ms=150))


def test_infer_rejects_a_model_that_streams(fake, connect):
    with pytest.raises(InvalidRequestError, match=r"call stream\(\)"):
        connect(fake.address).infer("count", {"N": [1]})


def test_a_closed_client_raises_closed_error(fake, connect):
    client = connect(fake.address)
    client.infer("double", ROW)
    client.close()
    client.close()
    with pytest.raises(ClosedError, match="the client is closed"):
        client.infer("double", ROW)


def test_readiness_is_a_result_not_an_error(fake, connect):
    client = connect(fake.address)
    assert client.is_ready()
    assert client.is_ready("double")
    assert not client.is_ready("nope")
    assert client.models() == ["count", "double", "echo"]
    fake.stop()
    assert not client.is_ready(deadline_ms=500)
    with pytest.raises(UnavailableError):
        client.models(deadline_ms=5000)


def test_the_current_span_is_propagated(fake, connect):
    context = trace.SpanContext(trace_id=0xABC, span_id=0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    client = connect(fake.address)
    with trace.use_span(trace.NonRecordingSpan(context)):
        client.infer("double", ROW)
    client.infer("double", ROW)
    assert fake.requests[0].headers["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert "traceparent" not in fake.requests[1].headers


def test_errors_carry_the_facts_of_the_call(fake, connect):
    fake.fail_next("double", "INTERNAL")
    with pytest.raises(ClientError) as caught:
        connect(fake.address).infer("double", ROW, version=1, request_id="r-1")
    facts = caught.value.facts
    assert (facts.model, facts.version, facts.request_id, facts.attempts) == ("double", "1", "r-1", 1)
    assert facts.endpoint == fake.address
    assert "model double:1" in str(caught.value)


def test_a_client_logs_nothing_by_default_and_secrets_never(fake, connect, caplog):
    with caplog.at_level(logging.INFO, logger="trireme_client"):
        client = connect(fake.address, admin_key="hush-hush")
        client.infer("double", ROW)
        with pytest.raises(ServerFaultError) as caught:
            client.load_model("double")
    assert "hush-hush" not in caplog.text
    assert "hush-hush" not in str(caught.value)
    assert [record for record in caplog.records if record.name.startswith("trireme_client")] == []


def test_tasks_report_the_variant_of_each_text(fake, connect):
    fake.add_model(
        "text_classification",
        inputs={"TEXT": ("BYTES", [1])},
        outputs={"LABEL": ("BYTES", [1]), "SCORE": ("FP32", [1]), "PROBABILITIES": ("FP32", [2]),
                 "VARIANT": ("BYTES", [1]), "VARIANT_VERSION": ("BYTES", [1]), "ROUTE_REASON": ("BYTES", [1])},
        max_batch_size=2,
        compute=lambda inputs: {
            "LABEL": np.full((len(inputs["TEXT"]), 1), b"positive", object),
            "SCORE": np.full((len(inputs["TEXT"]), 1), 0.75),
            "PROBABILITIES": np.full((len(inputs["TEXT"]), 2), [0.25, 0.75]),
            "VARIANT": inputs["TEXT"],
            "VARIANT_VERSION": np.full((len(inputs["TEXT"]), 1), b"3", object),
            "ROUTE_REASON": np.full((len(inputs["TEXT"]), 1), b"tier", object),
        },
    )  # fmt: skip
    result = connect(fake.address).classify(["a", "b", "c"], tier="economy", max_latency_ms=50)
    assert len(result) == 3
    assert result.labels == ("positive",) * 3
    assert result.scores.tolist() == [0.75] * 3
    assert result.probabilities.shape == (3, 2)
    assert [route.variant for route in result.routes] == ["a", "b", "c"]
    assert (result.variant, result.version, result.reason) == ("a", "3", "tier")
    sent = fake.requests[0].parameters
    assert (sent["tier"], sent["max_latency_ms"]) == ("economy", 50)


def test_no_texts_give_no_rows_and_send_nothing(fake, connect):
    fake.add_model(
        "text_embedding", inputs={"TEXT": ("BYTES", [1])}, outputs={"EMBEDDING": ("FP32", [384])}, max_batch_size=2,
        compute=lambda inputs: {"EMBEDDING": np.ones((len(inputs["TEXT"]), 384))},
    )  # fmt: skip
    client = connect(fake.address)
    assert client.embed([]).vectors.shape == (0, 384)
    assert client.embed("one text").vectors.shape == (1, 384)
    assert client.embed(["a"] * 5).timings.requests == 3
    assert fake.calls["ModelInfer"] == 4


def test_an_invalid_tier_or_text_is_rejected_here(fake, connect):
    client = connect(fake.address)
    with pytest.raises(InvalidRequestError, match="must be one of economy, standard, premium, auto"):
        client.embed("a", tier="cheap")
    with pytest.raises(InvalidInputError, match="element 1 is None"):
        client.embed(["a", None])


@pytest.mark.parametrize("rows", [0, 3])
def test_a_stream_is_one_request(fake, connect, rows):
    fake.add_model(
        "rows", inputs={"N": ("INT32", [1])}, outputs={"I": ("INT32", [1])}, stream=lambda _: [], max_batch_size=2
    )
    with pytest.raises(InvalidRequestError, match="a stream is one request"):
        list(connect(fake.address).stream("rows", {"N": np.zeros((rows, 1), np.int32)}))


def pad(inputs):
    """One number per character, padded to the longest text of the request."""
    longest = max(len(row[0]) for row in inputs["TEXT"])
    return {"CODES": np.array([[*row[0], *[0] * (longest - len(row[0]))] for row in inputs["TEXT"]])}


def test_rows_of_a_split_call_that_differ_in_shape_are_one_array_per_row(fake, connect):
    fake.add_model("pad", inputs={"TEXT": ("BYTES", [1])}, outputs={"CODES": ("INT32", [-1])}, max_batch_size=4,
                   compute=pad)  # fmt: skip
    client = connect(fake.address)
    rows = client.infer("pad", {"TEXT": ["a"] * 4 + ["bcd"]})["CODES"]
    assert [row.tolist() for row in rows] == [[97]] * 4 + [[98, 99, 100]]
    assert client.infer("pad", {"TEXT": ["a"] * 6})["CODES"].tolist() == [[97]] * 6


def test_responses_of_a_split_call_with_too_few_rows_are_rejected_with_output_and_shapes(fake, connect):
    fake.add_model("loses", inputs={"X": ("FP32", [2])}, outputs={"Y": ("FP32", [2])}, max_batch_size=4,
                   compute=lambda inputs: {"Y": inputs["X"][1:]})  # fmt: skip
    with pytest.raises(ServerFaultError, match=r"output 'Y' has the shapes \[3, 2\], \[1, 2\] for .* \[4, 2\] rows"):
        connect(fake.address).infer("loses", {"X": np.ones((6, 2), np.float32)})


def test_vectors_of_two_widths_in_one_call_are_rejected(fake, connect):
    fake.add_model("text_embedding", inputs={"TEXT": ("BYTES", [1])}, outputs={"EMBEDDING": ("FP32", [-1])},
                   compute=lambda inputs: {"EMBEDDING": np.ones((1, len(inputs["TEXT"][0, 0])))},
                   max_batch_size=1)  # fmt: skip
    with pytest.raises(
        ServerFaultError, match="text_embedding returned rows of EMBEDDING with 2, 3 numbers in one call"
    ):
        connect(fake.address).embed(["ab", "abc"])


def test_a_parameter_that_is_not_finite_is_rejected_here(fake, connect):
    with pytest.raises(InvalidRequestError, match="'share' is nan; expected a finite number"):
        connect(fake.address).infer("double", {"X": [[1.0, 2.0]]}, parameters={"share": float("nan")})
