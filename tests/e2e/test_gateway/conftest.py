"""A Triton with scripted language models, and a gateway in front of it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from trireme.processes.server import ServerFlags, TritonServer

from tests.e2e.gateway_process import GatewayProcess
from tests.servers import throw_away_server

MODELS = Path(__file__).parents[1] / "gateway_models"
# An ensemble that is pinned to an engine's version, and streams.
VARIANT = Path(__file__).parents[1] / "generation_models" / "generation_economy" / "config.pbtxt"


def write_models(folder: Path) -> Path:
    """``scripted``, its variant ``pinned``, and ``scripted_small`` with a context of 64 tokens."""
    shutil.copytree(MODELS / "scripted", folder / "scripted")
    small = shutil.copytree(MODELS / "scripted", folder / "scripted_small") / "config.pbtxt"
    small.write_text(small.read_text().replace('"8192"', '"64"'))
    (folder / "pinned" / "1").mkdir(parents=True)
    (folder / "pinned" / "config.pbtxt").write_text(
        VARIANT.read_text().replace("generation_economy_engine", "scripted")
    )
    return folder


@pytest.fixture(scope="package")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """The Triton."""
    with throw_away_server(ServerFlags(write_models(tmp_path_factory.mktemp("gateway") / "models"))) as running:
        yield running


@pytest.fixture(scope="package")
def gateway(scripted: TritonServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    """The gateway, without keys."""
    folder = tmp_path_factory.mktemp("gateway-log")
    with GatewayProcess(folder, triton=scripted.grpc_address, triton_http=scripted.http_address) as running:
        yield running
