"""What tests on the real server share: one server with the whole repository, started once a session."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

import pytest
import tritonclient.grpc as triton_grpc
from trireme.processes.server import ServerFlags, TritonServer
from trireme.settings import Settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.servers import throw_away_server

# A shell's background job ignores Ctrl-C, and its children would too: tests of Ctrl-C start children that do not.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Files that take longest. They go first, so that the short ones fill up the other processes of pytest-xdist.
_LONGEST = (
    *("test_docs.py", "test_release.py", "test_generation_conformance.py", "test_fleet.py", "test_serve.py"),
    *("test_generation_release.py", "test_models.py", "test_release_replicas.py", "test_router", "test_envoy.py"),
)


# Files that share a server of more than one file, by the server; the first that fits counts.
_SHARING = {
    "repository_server": (
        *("tests/contract/", "tests/e2e/test_backends_text.py", "tests/e2e/test_client_tasks.py"),
        *("tests/e2e/test_gateway/test_embeddings.py", "tests/e2e/test_gateway/test_page.py"),
    ),
    "scripted": ("tests/e2e/test_gateway/",),
}


class _ByServer(LoadScopeScheduling):
    """Runs the tests of one file in one process of pytest-xdist, and so the files that share a server."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        return next((server for server, files in _SHARING.items() if file.startswith(files)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    return _ByServer(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        return next((at for at, name in enumerate(_LONGEST) if name in item.path.parts), len(_LONGEST))

    items.sort(key=rank)


@pytest.fixture(scope="session")
def repository_server() -> Iterator[TritonServer]:
    """A tritonserver with every model of the repository. Tests leave its models as they found them."""
    flags = ServerFlags(Settings.from_environment().repository_dir, exit_on_error=False)
    with throw_away_server(flags) as running:
        yield running


@pytest.fixture(scope="session")
def triton(repository_server: TritonServer) -> Iterator[triton_grpc.InferenceServerClient]:
    """A bare gRPC client of ``repository_server``."""
    with contextlib.closing(triton_grpc.InferenceServerClient(repository_server.grpc_address)) as client:
        yield client
