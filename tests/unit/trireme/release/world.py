"""A repository on disk without a server: ``worker``, pinned by the three variants of a route, and ``plain``, which
``follower`` calls at -1.
"""

from __future__ import annotations

import json
from pathlib import Path

from trireme.release.callers import Serving, serving_by_files
from trireme.release.engine import Plan, ReleaseEngine
from trireme.release.journal import Journal
from trireme.release.step import World
from trireme.repository.folders import ModelFolder, ModelRepository
from trireme_client import OperatorClient
from trireme_client.operator import VersionState

ENSEMBLE = """platform: "ensemble"
# Comments stay.
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "ANSWER" data_type: TYPE_STRING dims: [ 1 ] } ]
ensemble_scheduling { step [ {
  model_name: "worker"
  model_version: 1  # the pin
  input_map { key: "TEXT" value: "TEXT" } output_map { key: "ANSWER" value: "ANSWER" }
} ] }
"""


FOLLOWER = ENSEMBLE.replace("worker", "plain").replace("model_version: 1  # the pin", "model_version: -1")


def make_world(directory: Path) -> World:
    """The world with a preflight that always passes; the real one is tested on the real server."""
    repository = directory / "models"
    _write(repository / "worker" / "config.pbtxt", 'backend: "python"\n')
    _write(repository / "worker" / "1" / "model.py", "1")
    _write(repository / "plain" / "config.pbtxt", 'backend: "python"  # Comments stay.\n')
    _write(repository / "plain" / "1" / "model.py", "1")
    _write(repository / "follower" / "config.pbtxt", FOLLOWER)
    (repository / "follower" / "1").mkdir()
    for tier in ("economy", "standard", "premium"):
        _write(repository / tier / "config.pbtxt", ENSEMBLE)
        (repository / tier / "1").mkdir()
    _write(repository / "task" / "config.pbtxt", 'backend: "router"\n')
    variants = [
        {"name": tier, "tier": tier, "cost_per_1000": 1, "expected_latency_ms": 1}
        for tier in ("economy", "standard", "premium")
    ]
    route = {"task": "task", "default_tier": "standard", "variants": variants}
    _write(repository / "task" / "1" / "route.json", json.dumps(route))
    return World(ModelRepository(repository), (), lambda *_: None)


class FileServer(OperatorClient):
    """A server without a process: it reads a model's files when the model is loaded.

    Attributes:
        is_stuck: it reports loads as successful without applying them.
    """

    def __init__(self, repository: ModelRepository) -> None:
        self._address = "here"
        self._repository = repository
        self.serving = serving_by_files(repository)
        self.is_stuck = False

    def is_live(self, deadline_seconds: float) -> bool:
        del deadline_seconds
        return True

    def index(self, deadline_seconds: float) -> list[VersionState]:
        del deadline_seconds
        loaded = self.serving.loaded
        return [VersionState(model, str(version), "READY", "") for model in loaded for version in loaded[model]]

    def load(self, model: str, deadline_seconds: float) -> None:
        del deadline_seconds
        if not self.is_stuck:
            files = serving_by_files(self._repository)
            steps = {name: files.steps[name] for name in files.steps if name == model}
            loaded = {**self.serving.loaded, model: files.loaded[model]}
            self.serving = Serving(loaded, {**self.serving.steps, **steps})

    def unload(self, model: str, deadline_seconds: float) -> None:
        del deadline_seconds
        loaded = {name: versions for name, versions in self.serving.loaded.items() if name != model}
        self.serving = Serving(loaded, self.serving.steps)

    def is_version_ready(self, model: str, version: int, deadline_seconds: float) -> bool:
        del deadline_seconds
        return version in self.serving.loaded.get(model, ())

    def ensemble_steps(self, model: str, deadline_seconds: float) -> dict[str, int]:
        del deadline_seconds
        return dict(self.serving.steps.get(model, {}))


def make_engine(world: World, directory: Path, journal: Journal | None = None) -> ReleaseEngine:
    return ReleaseEngine(journal or Journal(directory / "journal.jsonl"), world, _discard)


def make_source(directory: Path, content: str = "2") -> Path:
    _write(directory / "source" / "model.py", content)
    return directory / "source"


def carry_out(engine: ReleaseEngine, plan: Plan) -> None:
    engine.carry_out(plan, actor="ada", note="")


def tree(folder: Path) -> dict[str, str]:
    """The text of every file, and every folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in sorted(folder.rglob("*"))
    }


def worker(world: World) -> ModelFolder:
    return world.folder("worker")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _discard(line: str) -> None:
    del line
