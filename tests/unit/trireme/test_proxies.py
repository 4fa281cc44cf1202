"""Requests to local servers bypass the proxies of the environment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from trireme.doctor import CheckStatus, software
from trireme.processes.server_metrics import Metrics
from trireme_client import FakeServer, OperatorClient


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"# TYPE up gauge\nup 1\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(autouse=True)
def proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture
def page() -> Iterator[str]:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_metrics_are_read_directly(page: str) -> None:
    assert Metrics.read(page, 5.0).sums("up")[()] == 1.0


def test_triton_is_reached_directly() -> None:
    with FakeServer() as server, OperatorClient(server.address) as client:
        server.add_model("double", inputs={"X": ("FP32", [1])}, outputs={"Y": ("FP32", [1])},
                         compute=lambda inputs: {"Y": inputs["X"] * 2})  # fmt: skip
        assert client.infer("double", {"X": np.ones(1, np.float32)}, 5.0).outputs["Y"].tolist() == [2.0]


def test_doctor_lists_the_variables_and_how_to_exclude_this_machine() -> None:
    (check,) = software.proxies()
    assert check.status is CheckStatus.WARN
    assert check.found.startswith("grpc_proxy, https_proxy, http_proxy, all_proxy; ")
    assert check.fix == 'export no_proxy="127.0.0.1,localhost"'
    (check,) = software.proxies({"http_proxy": "http://p:1", "no_proxy": "localhost,127.0.0.1"})
    assert check.status is CheckStatus.OK
    (check,) = software.proxies({})
    assert check.found == "no environment variable sets one"
