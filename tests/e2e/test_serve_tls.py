"""``trireme serve`` with TLS: callers need a certificate, local processes do not.

The environment sets an HTTP proxy, as in many company networks.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from trireme.processes.ports import free_ports
from trireme_client import Tls, TriremeClient, UnavailableError

from tests.certificates import make_certificates
from tests.deadlines import scaled
from tests.e2e.serving import Serve, wait_until

TEXT = {"TEXT": [["hello"]]}
ECHO = {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["hello"]}]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def serve(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    files = {"certificate": "server.pem", "key": "server.key", "client-ca": "ca.pem"}
    options = [f"--tls-{name}={folder / file}" for name, file in files.items()]
    (gateway_port,) = free_ports(1)
    # Nothing listens at this proxy address: requests to local addresses must bypass it.
    proxies = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "all_proxy"), "http://127.0.0.1:9")
    options.append(f"--gateway-port={gateway_port}")
    running = Serve(tmp_path_factory.mktemp("tls"), options=options, **proxies)
    with running:
        yield running


def test_callers_with_a_certificate_are_served_over_grpc(serve: Serve, folder: Path) -> None:
    tls = Tls(ca=folder / "ca.pem", key=folder / "client.key", certificate=folder / "client.pem")
    with TriremeClient(f"127.0.0.1:{serve.grpc_port}", tls=tls) as client:
        assert client.infer("echo", TEXT)["ANSWER"].tolist() == [[b"hello"]]


@pytest.mark.parametrize("tls", [None, "without a certificate"])
def test_other_callers_are_rejected(serve: Serve, folder: Path, tls: str | None) -> None:
    with (
        TriremeClient(f"127.0.0.1:{serve.grpc_port}", tls=Tls(ca=folder / "ca.pem") if tls else None) as client,
        pytest.raises(UnavailableError),
    ):
        client.infer("echo", TEXT, deadline_ms=3000)


def test_callers_with_a_certificate_are_served_over_http(serve: Serve, folder: Path) -> None:
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    url = f"https://127.0.0.1:{serve.http_port}/v2/models/echo/infer"
    with pytest.raises((urllib.error.URLError, OSError)):
        urllib.request.urlopen(url, json.dumps(ECHO).encode(), timeout=scaled(10), context=context).read()
    context.load_cert_chain(folder / "client.pem", folder / "client.key")
    with urllib.request.urlopen(url, json.dumps(ECHO).encode(), timeout=scaled(10), context=context) as answer:
        assert json.load(answer)["outputs"][0]["data"] == ["hello"]


def test_the_gateway_reaches_triton(serve: Serve) -> None:
    url = f"http://{serve.state()['gateway_address']}/healthz"

    def is_up() -> bool:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(url, timeout=scaled(10)) as answer:
            return bool(answer.status == 200)
        return False

    wait_until(is_up, "the gateway is up and Triton is ready")


def test_the_other_commands_need_no_certificate(serve: Serve) -> None:
    done = serve.verb("ask", "echo", "hello")
    assert done.returncode == 0, done.stderr
    shown = serve.verb("status")
    assert shown.returncode == 0, shown.stderr
    assert f"with TLS 127.0.0.1:{serve.grpc_port}, https://127.0.0.1:{serve.http_port}" in shown.stdout
    assert f"127.0.0.1:{serve.grpc_port}, with TLS" in serve.output()


@pytest.mark.parametrize(
    ("options", "code", "expected"),
    [
        (["--host=0.0.0.0"], 2, "add --tls-certificate"),
        (["--host=everywhere"], 2, "must be an IP address"),
        (["--tls-certificate={}/server.pem"], 2, "must be given together"),
        (["--tls-certificate={}/nothing.pem", "--tls-key={}/server.key"], 1, "nothing.pem: cannot be read"),
        (
            ["--tls-certificate={}/server.pem", "--tls-key={}/client.key"],
            1,
            "not a PEM certificate with its private key",
        ),
        (["--tls-certificate={}/names", "--tls-key={}/server.key"], 1, "not a PEM certificate with its private key"),
        (["--tls-certificate={}/server.pem", "--tls-key={}/locked.key"], 1, "without a password"),
        (
            ["--tls-certificate={}/server.pem", "--tls-key={}/server.key", "--tls-client-ca={}/names"],
            1,
            "contains no PEM certificate of a CA",
        ),
    ],
)
def test_invalid_options_are_reported_before_anything_starts(
    folder: Path, tmp_path: Path, options: list[str], code: int, expected: str
) -> None:
    refused = Serve(tmp_path, options=[option.format(folder) for option in options]).run_to_its_end()
    assert refused.returncode == code
    assert expected in refused.stderr
    assert "Traceback" not in refused.stderr
