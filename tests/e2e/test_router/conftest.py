"""A repository with a route over three variants that misbehave on demand, served by the real tritonserver."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from trireme.processes.server import ServerFlags, TritonServer

from tests.deadlines import scaled
from tests.servers import throw_away_server

PATIENCE_SECONDS = scaled(30.0)
VARIANTS = {"economy": "small", "standard": "medium", "premium": "large"}

_INPUTS = """
input [
  { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] },
  { name: "HINT" data_type: TYPE_STRING dims: [ 1 ] optional: true }
]
"""
_OUTPUT_NAMES = ("ANSWER", "SEEN")
_ROUTE_OUTPUTS = ("VARIANT", "VARIANT_VERSION", "ROUTE_REASON")


@dataclass(frozen=True, slots=True)
class Routed:
    """One response of the router, decoded."""

    answers: list[str]
    seen: list[dict[str, Any]]
    variants: list[str]
    versions: list[str]
    reasons: list[dict[str, Any]]

    @property
    def variant(self) -> str:
        """The variant in the response, after a check that it is the one that responded."""
        for name, answer in zip(self.variants, self.answers, strict=True):
            assert answer.startswith(f"{name}:")
        return self.variants[0]

    @property
    def reason(self) -> dict[str, Any]:
        return self.reasons[0]


class EchoRepository:
    """The model repository of these tests on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in VARIANTS.values():
            self.write_worker(name, 1)
            self.pin(name, 1)
        self._write(
            "echo",
            f'backend: "router" max_batch_size: 16 {_INPUTS} {_outputs(*_OUTPUT_NAMES, *_ROUTE_OUTPUTS)}'
            " dynamic_batching { } instance_group [ { kind: KIND_CPU count: 1 } ]",
        )
        version = path / "echo" / "1"
        version.mkdir()
        (version / "route.json").write_text(json.dumps(_route()))

    @property
    def traffic_path(self) -> Path:
        return self.path / "echo" / "traffic.json"

    def write_worker(self, name: str, *versions: int) -> None:
        """Write the model that does a variant's work, in these versions."""
        listed = ", ".join(map(str, versions))
        self._write(
            f"{name}_worker",
            f'backend: "python" max_batch_size: 16 {_INPUTS} {_outputs(*_OUTPUT_NAMES)}'
            f" version_policy {{ specific {{ versions: [ {listed} ] }} }}"
            " dynamic_batching { default_queue_policy { max_queue_size: 8 } }"
            " instance_group [ { kind: KIND_CPU count: 1 } ]",
        )
        for version in versions:
            folder = self.path / f"{name}_worker" / str(version)
            folder.mkdir(exist_ok=True)
            shutil.copy(Path(__file__).with_name("echo_variant.py"), folder / "model.py")

    def pin(self, name: str, version: int, *, worker: str | None = None) -> None:
        """Write the variant, an ensemble that is pinned to a version of its worker."""
        worker = worker or f"{name}_worker"
        maps = "".join(f'input_map {{ key: "{key}" value: "{key}" }} ' for key in ("TEXT", "HINT"))
        maps += "".join(f'output_map {{ key: "{key}" value: "{key}" }} ' for key in _OUTPUT_NAMES)
        self._write(
            name,
            f'platform: "ensemble" max_batch_size: 16 {_INPUTS} {_outputs(*_OUTPUT_NAMES)}'
            f' ensemble_scheduling {{ step [ {{ model_name: "{worker}" model_version: {version} {maps} }} ] }}',
        )
        (self.path / name / "1").mkdir(exist_ok=True)

    def chain(self, name: str, first: str, version: int, second: str) -> None:
        """Write an ensemble that passes the output of one worker to another; the first carries the version."""
        steps = (
            f'{{ model_name: "{second}_worker" model_version: 1 input_map {{ key: "TEXT" value: "first" }}'
            ' output_map { key: "ANSWER" value: "ANSWER" } }, '
            f'{{ model_name: "{first}_worker" model_version: {version} input_map {{ key: "TEXT" value: "TEXT" }}'
            ' output_map { key: "ANSWER" value: "first" } output_map { key: "SEEN" value: "SEEN" } }'
        )
        self._write(
            name,
            'platform: "ensemble" max_batch_size: 16 input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]'
            f" {_outputs(*_OUTPUT_NAMES)} ensemble_scheduling {{ step [ {steps} ] }}"
            f' parameters {{ key: "version_step" value {{ string_value: "{first}_worker" }} }}',
        )
        (self.path / name / "1").mkdir(exist_ok=True)

    def behave(self, name: str, **behaviour: Any) -> None:
        """Set a variant's misbehaviour from its next batch on; without arguments it responds normally."""
        _replace(self.path / f"{name}_worker" / "behaviour.json", json.dumps(behaviour))

    def set_traffic(self, text: str) -> None:
        _replace(self.traffic_path, text)

    def _write(self, model: str, config: str) -> None:
        (self.path / model).mkdir(exist_ok=True)
        _replace(self.path / model / "config.pbtxt", config)


class Echo:
    """The running server, called through the route."""

    def __init__(self, server: TritonServer, repository: EchoRepository) -> None:
        self.server = server
        self.repository = repository
        self.client = triton_grpc.InferenceServerClient(server.grpc_address)

    def send(
        self,
        *texts: str,
        hint: str | None = None,
        model: str = "echo",
        headers: dict[str, str] | None = None,
        **parameters: Any,
    ) -> Routed:
        """Send a request to the route; raises its errors."""
        inputs = [_tensor("TEXT", texts)]
        if hint is not None:
            inputs.append(_tensor("HINT", [hint] * len(texts)))
        result = self.client.infer(
            model, inputs, parameters=parameters, headers=headers, client_timeout=PATIENCE_SECONDS
        )

        def column(name: str) -> list[str]:
            array = result.as_numpy(name)
            return [] if array is None else [value.decode() for value in array[:, 0]]

        return Routed(
            column("ANSWER"),
            [json.loads(text) for text in column("SEEN")],
            column("VARIANT"),
            column("VARIANT_VERSION"),
            [json.loads(text) for text in column("ROUTE_REASON")],
        )


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Echo]:
    repository = EchoRepository(tmp_path_factory.mktemp("repository"))
    # A killed stub delays the server's exit: do not wait long for it.
    flags = ServerFlags(repository.path, exit_on_error=False)
    with throw_away_server(flags) as server:
        echo = Echo(server, repository)
        with contextlib.closing(echo.client):
            yield echo


@pytest.fixture
def echo(running: Echo) -> Echo:
    """The server with healthy variants whose breakers are closed, and no canary traffic."""
    for name in VARIANTS.values():
        running.repository.behave(name)
    running.repository.traffic_path.unlink(missing_ok=True)
    return running


def _tensor(name: str, texts: Any) -> triton_grpc.InferInput:
    tensor = triton_grpc.InferInput(name, [len(texts), 1], "BYTES")
    tensor.set_data_from_numpy(np.array([[text.encode()] for text in texts], dtype=np.object_))
    return tensor


def _outputs(*names: str) -> str:
    return "output [ " + ", ".join(f'{{ name: "{name}" data_type: TYPE_STRING dims: [ 1 ] }}' for name in names) + " ]"


def _route() -> dict[str, Any]:
    qualities = {"economy": 0.7, "standard": 0.8, "premium": 0.9}
    return {
        "task": "echo",
        "default_tier": "standard",
        "deadline_ms": 20_000,
        "variants": [
            {
                "name": name,
                "tier": tier,
                "cost_per_1000": cost,
                "expected_latency_ms": 5,
                "quality": qualities[tier],
                "limits": {"timeout_ms": 1000},
            }
            for cost, (tier, name) in enumerate(VARIANTS.items(), start=1)
        ],
    }


def _replace(path: Path, text: str) -> None:
    staged = path.with_name(f".{path.name}.new")
    staged.write_text(text)
    staged.replace(path)
