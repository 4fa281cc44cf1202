"""TLS and mutual TLS against the real server."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest
from trireme.processes.ports import free_ports
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.shared_memory import new_region_prefix, remove_regions
from trireme.settings import Settings
from trireme_client import Tls, TriremeClient, UnavailableError

from tests.certificates import make_certificates
from tests.deadlines import scaled

MODELS = Path(__file__).with_name("client_models")
ROW = {"TEXT": ["é\0"]}
HANG_GUARD_SECONDS = scaled(90.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=[False, True], ids=["tls", "mutual"])
def secured(request, folder, tmp_path_factory):
    """The address of a server that accepts gRPC over TLS only, and whether it requires a client's certificate.

    ``trireme serve`` listens on the loopback address without TLS, so the server is started with its own flags.
    """
    directory = tmp_path_factory.mktemp("tls")
    shutil.copytree(MODELS / "identity_rows", directory / "models" / "identity_rows")
    runtime = EmbeddedRuntime.find(Settings.from_environment())
    runtime.build_backend_directory(directory / "backends")
    (port,) = free_ports(1)
    prefix = new_region_prefix()
    command = [
        str(runtime.server_path),
        f"--model-repository={directory / 'models'}",
        f"--backend-directory={directory / 'backends'}",
        f"--backend-config=python,shm-region-prefix-name={prefix}",
        "--allow-http=false",
        "--allow-metrics=false",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--grpc-use-ssl=true",
        f"--grpc-use-ssl-mutual={str(request.param).lower()}",
        f"--grpc-server-cert={folder / 'server.pem'}",
        f"--grpc-server-key={folder / 'server.key'}",
        f"--grpc-root-cert={folder / 'ca.pem'}",
    ]
    log = directory / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=runtime.environment(), stdout=output, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + HANG_GUARD_SECONDS
        with TriremeClient(f"127.0.0.1:{port}", tls=trusted(folder, certificate=True)) as client:
            while not client.is_ready("identity_rows", deadline_ms=2000):
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)
        yield f"127.0.0.1:{port}", request.param
    finally:
        process.terminate()
        try:
            process.wait(HANG_GUARD_SECONDS)
        finally:
            process.kill()
            remove_regions(prefix)


def trusted(folder, *, certificate):
    pair = {"certificate": folder / "client.pem", "key": folder / "client.key"} if certificate else {}
    return Tls(ca=folder / "ca.pem", server_name="triton.test", **pair)


def test_an_authenticated_server_responds_and_mutual_tls_requires_the_clients_certificate(secured, folder):
    address, mutual = secured
    with TriremeClient(address, tls=trusted(folder, certificate=True)) as client:
        assert client.infer("identity_rows", ROW)["TEXT_OUT"].tolist() == [["é\0".encode()]]
    with TriremeClient(address, tls=trusted(folder, certificate=False)) as client:
        if mutual:
            with pytest.raises(UnavailableError):
                client.infer("identity_rows", ROW, deadline_ms=5000)
        else:
            assert client.infer("identity_rows", ROW)["TEXT_OUT"].tolist() == [["é\0".encode()]]


@pytest.mark.parametrize(
    "tls",
    [
        pytest.param({"ca": "stranger.pem", "server_name": "triton.test"}, id="another authority"),
        pytest.param({"ca": "ca.pem", "server_name": "other.test"}, id="another name"),
        pytest.param(None, id="no TLS"),
    ],
)
def test_a_server_that_is_not_authenticated_receives_no_request(secured, folder, tls):
    address, _ = secured
    wanted = Tls(**{**tls, "ca": folder / tls["ca"]}) if tls else None
    with TriremeClient(address, tls=wanted) as client, pytest.raises(UnavailableError, match="before the request was"):
        client.infer("identity_rows", ROW, deadline_ms=5000)
