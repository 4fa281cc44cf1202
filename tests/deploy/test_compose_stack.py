"""The repository in containers, on a real Docker engine: right answers, closed doors, a clean end."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from trireme.demonstration import demonstrate
from trireme.errors import ServerError
from trireme.golden import load_golden
from trireme.ports import free_ports
from trireme.repository import ModelRepository
from trireme.settings import Settings
from trireme.triton_client import TritonClient
from trireme.variants import find_tasks

from tests.deploy.compose import Compose
from tests.deploy.engine import Engine, docker_engine
from tests.deploy.standin import build_standin

pytestmark = pytest.mark.docker

FILES = ("docker-compose.yml", "docker-compose.cpu.yml", "tests/deploy/docker-compose.standin.yml")
PROJECT = "trireme-compose-test"
START_DEADLINE_SECONDS = 240
ANSWER_DEADLINE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Stack:
    """The services of the compose files, built and, in most tests, up."""

    engine: Engine
    compose: Compose
    key_path: Path

    def run(self, *arguments: str, deadline_seconds: float = 60) -> str:
        return self.compose.run(FILES, f"--project-name={PROJECT}", *arguments, deadline_seconds=deadline_seconds)

    @property
    def container(self) -> str:
        return self.run("ps", "--quiet", "triton").strip()

    def client(self, admin_key: str | None = None) -> TritonClient:
        return TritonClient(f"127.0.0.1:{self.compose.environment['TRITON_GRPC_PORT']}", admin_key)

    def with_settings(self, **variables: str) -> Stack:
        environment = {**self.compose.environment, **variables}
        return replace(self, compose=replace(self.compose, environment=environment))


@pytest.fixture(scope="module")
def built(settings: Settings, compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The images, and nothing up. Afterwards nothing is left but the images in the cache of the engine."""
    key_path = tmp_path_factory.mktemp("secrets") / "admin_key"
    subprocess.run([settings.project_dir / "deploy/make-admin-key", key_path], check=True, timeout=10)
    with docker_engine(settings.state_dir / "compose-test" / "engine") as engine:
        grpc_port, http_port, metrics_port = free_ports(3)
        variables = {
            "TRITON_IMAGE": build_standin(engine, settings.project_dir, settings.state_dir),
            "TRITON_ADMIN_KEY_FILE": str(key_path),
            "TRITON_GRPC_PORT": str(grpc_port),
            "TRITON_HTTP_PORT": str(http_port),
            "TRITON_METRICS_PORT": str(metrics_port),
            # Small enough to be outgrown, and still what the models need.
            "TRITON_SHM_SIZE": "64m",
        }
        stack = Stack(engine, replace(compose, environment={**compose.environment, **variables}), key_path)
        if engine.host:
            stack = stack.with_settings(DOCKER_HOST=engine.host)
        # What a killed run left would answer in place of this one's.
        stack.run("down", "--volumes", "--remove-orphans", deadline_seconds=90)
        try:
            stack.run("build", deadline_seconds=300)
            yield stack
        finally:
            stack.run("down", "--volumes", "--remove-orphans", deadline_seconds=90)


@pytest.fixture(scope="module")
def stack(built: Stack) -> Stack:
    try:
        built.run("up", "--detach", "--wait", f"--wait-timeout={START_DEADLINE_SECONDS}", deadline_seconds=300)
    except ServerError as error:
        said = [line for line in built.run("logs", "--no-color").splitlines() if "failed to load" in line]
        raise ServerError("\n".join([str(error), *said[-20:]])) from None
    return built


@pytest.fixture
def client(stack: Stack) -> Iterator[TritonClient]:
    with stack.client() as connected:
        yield connected


def test_too_little_shared_memory_stops_the_start_with_the_number_to_set(built: Stack) -> None:
    with pytest.raises(ServerError, match=r"/dev/shm has 8 MiB .* set TRITON_SHM_SIZE=\d+m in \.env"):
        built.with_settings(TRITON_SHM_SIZE="8m").run("run", "--rm", "--no-deps", "triton", deadline_seconds=60)


def test_a_key_that_cannot_be_read_stops_the_start(built: Stack) -> None:
    stranger = built.with_settings(TRITON_USER="4321:4321")
    with pytest.raises(ServerError, match=r"user 4321 .* cannot read /run/secrets/admin_key .*make-admin-key"):
        stranger.run("run", "--rm", "--no-deps", "triton", deadline_seconds=60)


def test_the_questions_of_the_demo_are_answered_right(client: TritonClient, settings: Settings) -> None:
    repository = ModelRepository(settings.repository_dir)
    shown = [one for task in find_tasks(repository) for one in demonstrate(client, repository, task)]
    for one in shown:
        answer = one.answer.answer if one.answer else None
        print(f"compose-test: {one.asked}: {one.question:.40}: {answer}", flush=True)
    assert shown
    assert [one for one in shown if one.problems] == []


def test_every_golden_sample_is_answered_right(client: TritonClient, settings: Settings) -> None:
    asked, wrong = 0, []
    for folder in ModelRepository(settings.repository_dir).models():
        for sample in load_golden(folder):
            answer = client.infer(folder.name, sample.inputs, ANSWER_DEADLINE_SECONDS, sample.parameters)
            wrong += [f"{folder.name}: {difference}" for difference in sample.differences(answer.outputs)]
            asked += 1
    print(f"compose-test: {asked} golden samples asked, {len(wrong)} wrong answers", flush=True)
    assert asked > 0
    assert wrong == []


def test_the_container_reads_the_same_configurations(stack: Stack, settings: Settings) -> None:
    for folder in ModelRepository(settings.repository_dir).models():
        inside = stack.engine.docker("exec", stack.container, "sha256sum", f"/models/{folder.name}/config.pbtxt")
        assert inside.split()[0] == hashlib.sha256(folder.config_path.read_bytes()).hexdigest(), folder.name


def test_models_and_root_file_system_cannot_be_written(stack: Stack) -> None:
    for path in ("/models/x", "/opt/tritonserver/backends/text_encoder/x", "/opt/trireme/backends/x", "/opt/x"):
        with pytest.raises(ServerError, match="Read-only file system"):
            stack.engine.docker("exec", "--user=0", stack.container, "touch", path)


def test_the_server_is_nobody_special(stack: Stack) -> None:
    status = stack.engine.docker("exec", stack.container, "sh", "-c", "cat /proc/$(pidof tritonserver)/status")
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert set(fields["Uid"].split()) == {"1000"}
    assert int(fields["CapEff"], 16) == 0
    assert int(fields["CapBnd"], 16) == 0
    assert fields["NoNewPrivs"].strip() == "1"


def test_the_repository_api_asks_for_the_admin_key(stack: Stack, client: TritonClient) -> None:
    with pytest.raises(ServerError, match="restricted"):
        client.index(ANSWER_DEADLINE_SECONDS)
    index = f"http://127.0.0.1:{stack.compose.environment['TRITON_HTTP_PORT']}/v2/repository/index"
    with pytest.raises(urllib.error.HTTPError, match="403") as refused:
        urllib.request.urlopen(index, data=b"", timeout=ANSWER_DEADLINE_SECONDS)
    refused.value.close()
    with stack.client(stack.key_path.read_text()) as admin:
        states = {version.state for version in admin.index(ANSWER_DEADLINE_SECONDS)}
    assert states == {"READY"}


def test_the_admin_key_stands_in_no_description_and_no_log(stack: Stack) -> None:
    key = stack.key_path.read_text()
    described = stack.engine.docker("inspect", stack.container) + stack.engine.docker("logs", stack.container)
    image = stack.engine.docker("history", "--no-trunc", "trireme-triton-standin")
    assert key not in described + image
    assert stat.S_IMODE(stack.key_path.stat().st_mode) == 0o600


def test_no_library_collects_usage_events(stack: Stack) -> None:
    # ONNX Runtime keeps events that it has not sent yet below the home directory.
    written = stack.engine.docker("exec", stack.container, "find", "/tmp", "-ipath", "*microsoft*")
    assert written == ""


def test_a_request_larger_than_shared_memory_fails_alone(client: TritonClient) -> None:
    huge = {"TEXT": np.array([[b"x" * 100_000_000]], dtype=np.object_)}
    with pytest.raises(ServerError, match="shared memory"):
        client.infer("embedding_premium", huge, ANSWER_DEADLINE_SECONDS)
    small = {"TEXT": np.array([[b"good"]], dtype=np.object_)}
    for _ in range(8):
        assert client.infer("embedding_premium", small, ANSWER_DEADLINE_SECONDS).outputs["EMBEDDING"].shape == (1, 384)


def test_down_ends_the_server_in_order_and_leaves_nothing(stack: Stack) -> None:
    container = stack.container
    stack.run("stop", deadline_seconds=60)
    # 137 would be a kill after the grace period.
    assert stack.engine.docker("inspect", "--format={{.State.ExitCode}}", container).strip() == "0"
    stack.run("down", "--volumes", deadline_seconds=60)
    of_project = f"--filter=label=com.docker.compose.project={PROJECT}"
    assert stack.engine.docker("ps", "--all", "--quiet", of_project) == ""
    assert stack.engine.docker("network", "ls", "--quiet", of_project) == ""
