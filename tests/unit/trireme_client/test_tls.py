"""TLS and mutual TLS."""

from __future__ import annotations

import gc
import http.server
import ssl
import threading
from pathlib import Path

import grpc
import pytest
from trireme_client import FakeServer, Tls, UnavailableError

from tests.certificates import make_certificates

ROW = {"X": [[1.0, 2.0]]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


def serve(folder: Path, *, mutual: bool):
    pair = ((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())
    credentials = grpc.ssl_server_credentials([pair], (folder / "ca.pem").read_bytes(), mutual)
    server = FakeServer(credentials=credentials)
    server.add_model(
        "double", inputs={"X": ("FP32", [2])}, outputs={"Y": ("FP32", [2])}, max_batch_size=8,
        compute=lambda inputs: {"Y": inputs["X"] * 2},
    )  # fmt: skip
    return server


@pytest.mark.parametrize("name", [None, "triton.test"])
def test_a_server_of_a_trusted_authority_is_called(folder, connect, name):
    with serve(folder, mutual=False) as server:
        client = connect(server.address, tls=Tls(ca=folder / "ca.pem", server_name=name))
        assert client.infer("double", ROW)["Y"].tolist() == [[2.0, 4.0]]


@pytest.mark.parametrize("wrong", [{"ca": "stranger.pem"}, {"ca": "ca.pem", "server_name": "other.test"}])
def test_a_server_that_is_not_authenticated_is_not_called(folder, connect, wrong):
    tls = Tls(ca=folder / wrong["ca"], server_name=wrong.get("server_name"))
    with serve(folder, mutual=False) as server:
        with pytest.raises(UnavailableError, match="before the request was sent"):
            connect(server.address, tls=tls).infer("double", ROW, deadline_ms=3000)
        assert server.calls["ModelInfer"] == 0


def test_mutual_tls_needs_the_clients_certificate(folder, connect):
    with serve(folder, mutual=True) as server:
        tls = Tls(ca=folder / "ca.pem", certificate=folder / "client.pem", key=folder / "client.key")
        assert connect(server.address, tls=tls).infer("double", ROW)["Y"].tolist() == [[2.0, 4.0]]
        with pytest.raises(UnavailableError):
            connect(server.address, tls=Tls(ca=folder / "ca.pem")).infer("double", ROW, deadline_ms=3000)


@pytest.fixture
def https(folder):
    """An HTTPS server that reports ready and requires a client's certificate."""

    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            pass

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    context.verify_mode = ssl.CERT_REQUIRED
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        server.handle_error = lambda *_: None
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"https://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()
    gc.collect()  # here, where the test's warning filter applies


# asyncio of Python 3.10 does not close the transport of a failed handshake.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", [None, "triton.test"])
def test_https_authenticates_both_sides(https, folder, connect, name):
    pair = {"certificate": folder / "client.pem", "key": folder / "client.key"}
    assert connect(https, tls=Tls(ca=folder / "ca.pem", server_name=name, **pair)).is_ready(deadline_ms=5000)
    assert not connect(https, tls=Tls(ca=folder / "stranger.pem", **pair)).is_ready(deadline_ms=2000)
    assert not connect(https, tls=Tls(ca=folder / "ca.pem")).is_ready(deadline_ms=2000)
