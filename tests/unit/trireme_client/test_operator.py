"""The operator's client with a server that responds, one that rejects requests, and one that is down."""

from __future__ import annotations

import numpy as np
import pytest
from trireme_client import (
    ClientError,
    FakeServer,
    InvalidInputError,
    OperatorClient,
    UnavailableError,
    UnreachableError,
)
from trireme_client.operator import VersionState, in_one_line

STACK = "\n\nAt:\n  /a/labels.py(29): __init__\n  <frozen importlib._bootstrap>(241): _call\n"
ROW = np.ones((1, 2), np.float32)


@pytest.mark.parametrize("stack", [STACK, STACK.replace("\n", "\\n")], ids=["as sent", "as logged"])
def test_the_stack_of_a_python_model_is_not_part_of_its_reason(stack: str) -> None:
    assert in_one_line(f"Internal: no labels{stack}; version 2 is at UNAVAILABLE") == (
        "Internal: no labels; version 2 is at UNAVAILABLE"
    )


def test_a_reason_without_a_stack_is_kept() -> None:
    assert in_one_line("At: 5 rows,\n  of 3 (7): too many") == "At: 5 rows, of 3 (7): too many"


def test_an_unreachable_server_is_reported_with_its_address_and_a_command(fake: FakeServer) -> None:
    fake.stop()
    with OperatorClient(fake.address) as client, pytest.raises(UnreachableError) as raised:
        client.infer("double", {"X": ROW}, 10.0)
    assert str(raised.value) == f"no server responds at {fake.address}; run: trireme status"


def test_models_and_counters_of_a_server_are_reported(fake: FakeServer) -> None:
    with OperatorClient(fake.address) as client:
        assert VersionState("double", "1", "READY", "") in client.index(5.0)
        assert client.is_version_ready("double", 1, 5.0)
        assert client.is_live(5.0)
        assert client.is_ready(5.0)
        assert {entry.model for entry in client.statistics(5.0)} == {"double", "count", "echo"}


def test_a_model_that_streams_is_called_like_any_other(fake: FakeServer) -> None:
    with OperatorClient(fake.address) as client:
        assert client.infer("double", {"X": ROW}, 5.0)["Y"].tolist() == [[2.0, 2.0]]
        assert client.infer("count", {"N": np.array([3], np.int32)}, 5.0)["I"].tolist() == [0, 1, 2]
        with pytest.raises(ClientError, match="count ended its stream without a response"):
            client.infer("count", {"N": np.array([0], np.int32)}, 5.0)


def test_a_rejection_is_reported_after_one_attempt(fake: FakeServer) -> None:
    with OperatorClient(fake.address) as client:
        for status, kind in (("RESOURCE_EXHAUSTED", UnavailableError), ("INTERNAL", ClientError)):
            before = fake.calls["ModelInfer"]
            fake.fail_next("double", status, f"no{STACK}")
            with pytest.raises(kind, match=r"^no$") as raised:
                client.infer("double", {"X": ROW}, 5.0)
            assert type(raised.value) is kind
            assert fake.calls["ModelInfer"] == before + 1


def test_an_array_without_a_datatype_is_not_sent(fake: FakeServer) -> None:
    with OperatorClient(fake.address) as client, pytest.raises(InvalidInputError, match="'X': is an array of complex"):
        client.infer("double", {"X": np.ones(1, np.complex64)}, 5.0)
