"""What is told of a server that refuses, and of one that is not there."""

from __future__ import annotations

import pytest
from trireme.errors import ServerError
from trireme.ports import free_ports
from trireme.triton_client import TritonClient, in_one_line, text_tensor

STACK = "\n\nAt:\n  /a/labels.py(29): __init__\n  <frozen importlib._bootstrap>(241): _call\n"


@pytest.mark.parametrize("stack", [STACK, STACK.replace("\n", "\\n")], ids=["as sent", "as logged"])
def test_the_stack_of_a_python_model_is_left_out_of_its_reason(stack: str) -> None:
    assert in_one_line(f"Internal: no labels{stack}; version 2 is at UNAVAILABLE") == (
        "Internal: no labels; version 2 is at UNAVAILABLE"
    )


def test_a_reason_without_a_stack_is_kept() -> None:
    assert in_one_line("At: 5 rows,\n  of 3 (7): too many") == "At: 5 rows, of 3 (7): too many"


def test_a_server_that_is_not_there_is_told_with_its_address_and_where_to_look() -> None:
    (port,) = free_ports(1)
    with TritonClient(f"127.0.0.1:{port}") as client, pytest.raises(ServerError) as raised:
        client.infer("echo", {"TEXT": text_tensor(b"hello")}, 10.0)
    assert str(raised.value) == f"no server answers at 127.0.0.1:{port}; see: trireme status"
