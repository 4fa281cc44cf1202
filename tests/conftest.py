"""What tests on the real server share: one server with the whole repository, started once a session."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator, Sequence

import pytest
import tritonclient.grpc as triton_grpc
from trireme.server import ServerFlags, TritonServer
from trireme.settings import Settings

# Fixtures of more than one file that are servers: each is started once, whatever the number of processes.
SHARED_SERVERS = ("repository_server", "scripted")

# A shell's background job ignores Ctrl-C, and its children would too: tests of Ctrl-C start children that do not.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that share a server in one process of pytest-xdist, with ``--dist loadgroup``."""
    for item in items:
        fixtures: Sequence[str] = getattr(item, "fixturenames", ())
        shared = next((name for name in SHARED_SERVERS if name in fixtures), str(item.path))
        item.add_marker(pytest.mark.xdist_group(shared))


@pytest.fixture(scope="session")
def repository_server() -> Iterator[TritonServer]:
    """A tritonserver with every model of the repository. Tests leave its models as they found them."""
    flags = ServerFlags(Settings.from_environment().repository_dir, exit_on_error=False)
    with TritonServer.start(flags) as running:
        yield running


@pytest.fixture(scope="session")
def triton(repository_server: TritonServer) -> Iterator[triton_grpc.InferenceServerClient]:
    """A bare gRPC client of ``repository_server``."""
    with contextlib.closing(triton_grpc.InferenceServerClient(repository_server.grpc_address)) as client:
        yield client
