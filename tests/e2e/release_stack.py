"""A served repository without weights for the tests of releases, and callers of it.

``echo`` (router) over ``echo_{economy,standard,premium}`` (pinned ensembles) over ``echo_worker``, whose versions say
their number in the output ``WORKER`` and behave as ``behaviour.json`` in the version directory says. ``alone`` is such
a worker that nothing pins; ``alone_follower`` calls it at -1. ``later`` has no version yet; ``later_caller`` pins it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from trireme.repository.manifest import Manifest, record_files, write_manifest
from trireme_client import OperatorClient
from trireme_loadtest.generate.requests import text_tensors
from trireme_loadtest.generate.traffic import ClientThreads

from tests.deadlines import scaled
from tests.e2e.serving import Serve

_WORKER = Path(__file__).parent / "release_models" / "echo_worker.py"
_INPUT = 'input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]'
_OUTPUTS = '{ name: "ANSWER" data_type: TYPE_STRING dims: [ 1 ] }, { name: "WORKER" data_type: TYPE_FP32 dims: [ 1 ] }'
_WORKER_CONFIG = f'backend: "python" max_batch_size: 8 {_INPUT} output [ {_OUTPUTS} ]'
_ROUTE_OUTPUTS = ", ".join(
    f'{{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] }}'
    for name in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON")
)
TIERS = ("economy", "standard", "premium")


class ReleaseStack(Serve):
    """``trireme serve`` on that repository."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.directory = directory
        shutil.rmtree(self.repository)
        self._write("echo_worker", _WORKER_CONFIG)
        write_version(self.repository / "echo_worker" / "1")
        self._write_golden("echo_worker")
        self._write("alone", _WORKER_CONFIG)
        write_version(self.repository / "alone" / "1")
        self._write("alone_follower", _ensemble("alone", -1))
        (self.repository / "alone_follower" / "1").mkdir()
        self._write("later", _WORKER_CONFIG)
        self._write("later_caller", _ensemble("later", 1))
        (self.repository / "later_caller" / "1").mkdir()
        for tier in TIERS:
            self._write(f"echo_{tier}", _ensemble("echo_worker", 1, tier))
            (self.repository / f"echo_{tier}" / "1").mkdir()
        self._write_golden("echo_standard")
        self._write("echo", f'backend: "router" max_batch_size: 8 {_INPUT} output [ {_OUTPUTS}, {_ROUTE_OUTPUTS} ]'
                    ' dynamic_batching { } instance_group [ { kind: KIND_CPU count: 1 } ]'
                    ' parameters { key: "task" value { string_value: "echo" } }')  # fmt: skip
        (self.repository / "echo" / "1").mkdir()
        (self.repository / "echo" / "1" / "route.json").write_text(json.dumps(_route()))

    def source(self, name: str, **behaviour: Any) -> Path:
        """A folder with a version of ``echo_worker`` to publish."""
        folder = self.directory / "sources" / name
        write_version(folder, **behaviour)
        return folder

    def publish(
        self, name: str = "good", model: str = "echo_worker", **behaviour: Any
    ) -> subprocess.CompletedProcess[str]:
        return self.verb("publish", model, str(self.source(name, **behaviour)))

    def start_verb(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trireme.cli", *arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def versions(self) -> list[int]:
        return sorted(int(entry.name) for entry in (self.repository / "echo_worker").iterdir() if entry.name.isdigit())

    def worker(self, model: str = "echo_standard") -> int:
        """The worker version that answers."""
        with OperatorClient(self.grpc_address) as client:
            return int(client.infer(model, text_tensors("hello"), 30.0).outputs["WORKER"][0, 0])

    def history(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.verb("history", "--json").stdout)
        return found

    def traffic(self) -> Any:
        path = self.repository / "echo" / "traffic.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _write(self, model: str, config: str) -> None:
        folder = self.repository / model
        folder.mkdir(parents=True)
        (folder / "config.pbtxt").write_text(config + "\n")

    def _write_golden(self, model: str) -> None:
        folder = self.repository / model / "golden"
        folder.mkdir()
        request = {"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": ["hello my old friend"]}
        answer = {"name": "ANSWER", "datatype": "BYTES", "shape": [1, 1], "data": ["HELLO MY OLD FRIEND"]}
        worker = {"name": "WORKER", "datatype": "FP32", "shape": [1, 1], "data": [0]}
        sample = {
            "request": {"inputs": [request]},
            "response": {"outputs": [answer, worker]},
            # The version number does not affect the comparison.
            "tolerance": {"WORKER": {"absolute": 1e9}},
        }
        (folder / "hello.json").write_text(json.dumps(sample))


def write_version(folder: Path, **behaviour: Any) -> None:
    """The files of a version, with a manifest."""
    folder.mkdir(parents=True)
    shutil.copyfile(_WORKER, folder / "model.py")
    (folder / "behaviour.json").write_text(json.dumps(behaviour))
    files = record_files(folder.iterdir())
    write_manifest(Manifest(inputs_sha256="", exporter="test", origins=(), files=files), folder)


class WorkerCallers(ClientThreads):
    """Callers of router, ensemble and worker, or other models, in a closed loop: a slow version must not overload them.

    Attributes:
        answers: (``time.monotonic()``, model, worker version).
    """

    def __init__(self, stack: ReleaseStack, models: Sequence[str] = ("echo", "echo_standard", "echo_worker")) -> None:
        self.answers: list[tuple[float, str, int]] = []
        self._client = OperatorClient(stack.grpc_address)
        super().__init__([partial(self._infer, model) for model in models], pause_seconds=0.02)

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._client.close()

    def workers_of(self, model: str) -> set[int]:
        return {version for _, called, version in self.answers if called == model}

    def _infer(self, model: str) -> None:
        parameters = {"tier": "standard"} if model == "echo" else {}
        response = self._client.infer(model, text_tensors("hello"), 30.0, parameters)
        self.answers.append((time.monotonic(), model, int(response.outputs["WORKER"][0, 0])))


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool], deadline_seconds: float = 60.0) -> None:
    """SIGKILL ``process`` as soon as ``condition`` holds; the test fails if it ends before."""
    deadline = time.monotonic() + deadline_seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=scaled(30.0))


def _ensemble(worker: str, version: int, tier: str = "") -> str:
    task = (
        ' parameters { key: "task" value { string_value: "echo" } }'
        f' parameters {{ key: "tier" value {{ string_value: "{tier}" }} }}'
    )
    return (
        f'platform: "ensemble" max_batch_size: 8 {_INPUT} output [ {_OUTPUTS} ]'
        f' ensemble_scheduling {{ step [ {{ model_name: "{worker}" model_version: {version}'
        ' input_map { key: "TEXT" value: "TEXT" } output_map { key: "ANSWER" value: "ANSWER" }'
        ' output_map { key: "WORKER" value: "WORKER" } } ] }' + (task if tier else "")
    )


def _route() -> dict[str, Any]:
    return {
        "task": "echo",
        "default_tier": "standard",
        "variants": [
            {"name": f"echo_{tier}", "tier": tier, "cost_per_1000": cost, "expected_latency_ms": 5, "quality": 0.8}
            for cost, tier in enumerate(TIERS, start=1)
        ],
    }
