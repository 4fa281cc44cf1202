"""Proxies from the environment: when they are used, and how an error names them."""

from __future__ import annotations

import pytest
from trireme_client import Endpoint, UnavailableError

# Nothing listens at this address.
PROXY = "http://127.0.0.1:9"
VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy", "no_grpc_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("variable", VARIABLES[:3])
@pytest.mark.parametrize("scheme", ["", "http://"])
def test_this_machine_is_reached_without_a_proxy(fake, connect, environment, variable, scheme):
    environment.setenv(variable, PROXY)
    assert connect(fake.address).infer("double", {"X": [[1.0, 2.0]]})["Y"].tolist() == [[2.0, 4.0]]
    assert Endpoint(f"{scheme}localhost").proxy_variable == ""


def test_an_error_behind_a_proxy_names_its_variable(connect, environment):
    environment.setenv("http_proxy", PROXY)
    client = connect("192.0.2.1:8001", deadline_ms=20_000)
    with pytest.raises(UnavailableError, match="proxy from http_proxy, unless no_proxy lists the host"):
        client.infer("double", {"X": [[1.0, 2.0]]})


@pytest.mark.parametrize(
    ("endpoint", "no_proxy", "variable"),
    [
        (Endpoint("10.1.2.3:8001"), "", "https_proxy"),
        (Endpoint("triton.example:8001").at("10.1.2.3"), "", "https_proxy"),
        (Endpoint("triton.example:8001").at("10.1.2.3"), "localhost, .example", ""),
        (Endpoint("10.1.2.3:8001"), "10.0.0.0/8", ""),
        (Endpoint("10.1.2.3:8001"), "*", ""),
        (Endpoint("10.1.2.3:8001", direct=True), "", ""),
        (Endpoint("http://10.1.2.3:8000"), "", ""),
        (Endpoint("[::1]:8001"), "", ""),
    ],
)
def test_the_proxy_of_an_endpoint_follows_the_variables(environment, endpoint, no_proxy, variable):
    environment.setenv("http_proxy", PROXY)
    environment.setenv("https_proxy", PROXY)
    environment.setenv("no_proxy", no_proxy)
    assert endpoint.proxy_variable == variable
