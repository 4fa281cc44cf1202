"""Releases while a server is starting."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from trireme.processes.server import ServerFlags
from trireme.repository.folders import ModelRepository
from trireme.serving.catch_up import catch_up
from trireme_client import OperatorClient

from tests.e2e.serving import MODELS
from tests.servers import throw_away_server


def test_a_server_applies_releases_since_its_start(tmp_path: Path) -> None:
    models = tmp_path / "models"
    for name in ("echo", "removed", "untouched"):
        shutil.copytree(MODELS / "echo", models / name)
    repository = ModelRepository(models)
    started_at = time.time()
    with throw_away_server(ServerFlags(models)) as server, OperatorClient(server.grpc_address) as client:

        def ready() -> set[tuple[str, str]]:
            return {(entry.model, entry.version) for entry in client.index(30.0) if entry.state == "READY"}

        requested = ("echo", "removed", "untouched")
        assert ready() == {(name, "1") for name in requested}
        shutil.copytree(MODELS / "echo", models / "added")
        shutil.rmtree(models / "removed")
        shutil.copytree(models / "echo" / "1", models / "echo" / "2")
        config = models / "echo" / "config.pbtxt"
        config.write_text(config.read_text() + "version_policy { specific { versions: [ 1, 2 ] } }\n")
        catch_up(client, repository, loaded=requested, since=started_at, deadline_seconds=60.0)
        assert ready() == {("echo", "1"), ("echo", "2"), ("untouched", "1"), ("added", "1")}
