"""A served repository without weights for the tests of releases, and callers that ask it all the while.

``echo`` (router) over ``echo_{economy,standard,premium}`` (pinned ensembles) over ``echo_worker``, whose versions say
their number in the output ``WORKER`` and behave as ``behaviour.json`` in the version directory says. ``alone`` is such
a worker that nothing pins; ``alone_follower`` calls it at -1. ``later`` has no version yet; ``later_caller`` pins it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trireme.inference.text_request import text_tensor
from trireme.repository.manifest import Manifest, record_files, write_manifest
from trireme_client import OperatorClient

from tests.deadlines import scaled
from tests.e2e.serving import TRIREME, Serve

_WORKER = Path(__file__).parent / "release_models" / "echo_worker.py"
_INPUT = 'input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]'
_OUTPUTS = '{ name: "ANSWER" data_type: TYPE_STRING dims: [ 1 ] }, { name: "WORKER" data_type: TYPE_FP32 dims: [ 1 ] }'
_WORKER_CONFIG = f'backend: "python" max_batch_size: 8 {_INPUT} output [ {_OUTPUTS} ]'
_ROUTE_OUTPUTS = ", ".join(
    f'{{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] }}'
    for name in ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON")
)
_STANDARD = {"tier": "standard"}
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
            [str(TRIREME), *arguments],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def versions(self) -> list[int]:
        return sorted(int(entry.name) for entry in (self.repository / "echo_worker").iterdir() if entry.name.isdigit())

    def worker(self, model: str = "echo_standard") -> int:
        """The worker version that responds."""
        with OperatorClient(f"127.0.0.1:{self.grpc_port}") as client:
            return int(client.infer(model, {"TEXT": text_tensor(b"hello")}, 30.0).outputs["WORKER"][0, 0])

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


class Callers:
    """Asks router, ensemble and worker, or other models, each at a steady rate, from threads of this process.

    Attributes:
        answers: (seconds since the epoch, who was asked, worker version).
        failures: what callers saw go wrong.
    """

    def __init__(
        self,
        stack: ReleaseStack,
        models: Sequence[str] = ("echo", "echo_standard", "echo_worker"),
        period_seconds: float = 0.02,
    ) -> None:
        self.answers: list[tuple[float, str, int]] = []
        self.failures: list[str] = []
        self._stack = stack
        self._period_seconds = period_seconds
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._ask, args=(model, {"tier": "standard"} if model == "echo" else {}), daemon=True
            )
            for model in models
        ]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=scaled(60.0))

    def workers_of(self, model: str) -> set[int]:
        return {version for _, asked, version in self.answers if asked == model}

    def _ask(self, model: str, parameters: Mapping[str, str]) -> None:
        with OperatorClient(f"127.0.0.1:{self._stack.grpc_port}") as client:
            while not self._stop.wait(self._period_seconds):
                try:
                    answer = client.infer(model, {"TEXT": text_tensor(b"hello")}, 30.0, parameters)
                    self.answers.append((time.time(), model, int(answer.outputs["WORKER"][0, 0])))
                except Exception as error:
                    self.failures.append(f"{model}: {error}")


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
