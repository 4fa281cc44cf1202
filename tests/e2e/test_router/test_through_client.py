"""Arguments of the typed client on their way through the router, on the real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from trireme_client import AsyncTriremeClient, InvalidRequestError, TriremeClient

if TYPE_CHECKING:
    from conftest import Echo

PARAMETERS = {"lang": "de", "k": 7, "flag": True}

Infer = Callable[..., Any]


@pytest.fixture(params=["blocking", "asyncio"])
def infer(echo: Echo, request: pytest.FixtureRequest) -> Infer:
    """One inference with each kind of client."""

    def blocking(*args: Any, **kwargs: Any) -> Any:
        with TriremeClient(echo.server.grpc_address) as client:
            return client.infer(*args, **kwargs)

    async def asynchronous(*args: Any, **kwargs: Any) -> Any:
        async with AsyncTriremeClient(echo.server.grpc_address) as client:
            return await client.infer(*args, **kwargs)

    if request.param == "blocking":
        return blocking
    return lambda *args, **kwargs: asyncio.run(asynchronous(*args, **kwargs))


@pytest.mark.parametrize(("given", "hint"), [({"HINT": "please"}, "please"), ({}, None)])
def test_parameters_and_optional_inputs_reach_the_variant_unchanged(infer: Infer, given: Any, hint: Any) -> None:
    result = infer("echo", {"TEXT": "x", **given}, parameters={"tier": "premium", **PARAMETERS})
    assert result["ANSWER"].tolist() == [[b"large:x"]]
    seen = json.loads(result["SEEN"][0, 0])
    # The queue's timeout is a parameter of the protocol; the server does not pass it to models.
    assert seen["parameters"] == PARAMETERS
    assert {key: type(value) for key, value in seen["parameters"].items()} == {"lang": str, "k": int, "flag": bool}
    assert seen["hint"] == hint


def test_a_reserved_parameter_is_rejected_before_it_is_sent(infer: Infer) -> None:
    with pytest.raises(InvalidRequestError, match="parameter 'triton_x' is reserved by the server") as caught:
        infer("echo", {"TEXT": "x"}, parameters={"triton_x": "de"})
    assert caught.value.attempts == 0
