"""A repository on disk without a server.

``worker``, pinned by the three variants of a route, and ``plain``, which ``follower`` calls at -1.
"""

from __future__ import annotations

import json
from pathlib import Path

from trireme.release.engine import Engine, Plan
from trireme.release.journal import Journal
from trireme.release.step import World
from trireme.repository import ModelFolder, ModelRepository

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
    """The world with a check that passes everything: what it checks is tested on the real server."""
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


def make_engine(world: World, directory: Path, journal: Journal | None = None) -> Engine:
    return Engine(journal or Journal(directory / "journal.jsonl"), world, _say_nothing)


def make_source(directory: Path, content: str = "2") -> Path:
    _write(directory / "source" / "model.py", content)
    return directory / "source"


def carry_out(engine: Engine, plan: Plan) -> None:
    engine.carry_out(plan, actor="ada", note="")


def tree(folder: Path) -> dict[str, str]:
    """Every file's text and every folder, by relative path."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else "" for path in sorted(folder.rglob("*"))
    }


def worker(world: World) -> ModelFolder:
    return world.folder("worker")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _say_nothing(told: str) -> None:
    del told
