"""The platform in containers on a real Docker engine: correct responses, restricted access, clean shutdown."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from trireme.agent.samples import find_samples
from trireme.errors import ServerError
from trireme.inference.demonstration import demonstrate
from trireme.release.preflight import replay_golden
from trireme.repository.tasks import find_tasks
from trireme_client import ClientError, OperatorClient

from tests.deadlines import scaled
from tests.deploy.stack import PROJECT, REPLICAS, Stack
from tests.e2e.serving import wait_until

pytestmark = pytest.mark.docker

ANSWER_DEADLINE_SECONDS = scaled(60)


@pytest.fixture
def client(stack: Stack) -> Iterator[OperatorClient]:
    with stack.client() as connected:
        yield connected


def test_too_little_shared_memory_stops_the_start_with_the_number_to_set(built: Stack) -> None:
    with pytest.raises(ServerError, match=r"/dev/shm has 8 MiB .* set TRITON_SHM_SIZE=\d+m in \.env"):
        _start_triton(built, "--shm-size=8m")


def test_an_unreadable_key_stops_the_start(built: Stack) -> None:
    with pytest.raises(ServerError, match=r"user 4321 .* cannot read /run/secrets/admin_key .*make-secrets"):
        _start_triton(built, "--shm-size=64m", "--user=4321:4321")


def test_the_demo_requests_get_correct_responses(stack: Stack, client: OperatorClient) -> None:
    shown = [one for task in find_tasks(stack.repository) for one in demonstrate(client, stack.repository, task)]
    for one in shown:
        answer = one.response.answer if one.response else None
        print(f"compose-test: {one.target}: {one.text:.40}: {answer}", flush=True)
    assert shown
    assert [one for one in shown if one.problems] == []


def test_every_replica_responds_correctly_to_every_golden_sample(stack: Stack) -> None:
    sent, wrong = 0, []
    for replica in REPLICAS:
        with stack.replica_client(replica) as admin:
            for model, samples in find_samples(admin, stack.repository, ANSWER_DEADLINE_SECONDS).of.items():
                problems = replay_golden(admin, model, samples, ANSWER_DEADLINE_SECONDS)
                wrong += [f"{replica}: {model}: {problem}" for problem in problems]
                sent += len(samples)
    print(f"compose-test: {sent} golden samples sent, {len(wrong)} wrong responses", flush=True)
    assert sent > 0
    assert wrong == []


def test_golden_samples_get_correct_responses_over_http(stack: Stack) -> None:
    sent = 0
    for folder in stack.repository.models():
        for path in folder.golden_dir.glob("*.json"):
            document = json.loads(path.read_text())
            expected = {output["name"]: output.get("data") for output in document["response"]["outputs"]}
            if "LABEL" in expected:
                url = stack.url("ENVOY_HTTP_PORT", f"/v2/models/{folder.name}/infer")
                with urllib.request.urlopen(
                    url, json.dumps(document["request"]).encode(), timeout=ANSWER_DEADLINE_SECONDS
                ) as answer:
                    outputs = {output["name"]: output["data"] for output in json.load(answer)["outputs"]}
                assert outputs["LABEL"] == expected["LABEL"], f"{folder.name}: {path.stem}"
                sent += 1
    assert sent > 0


def test_the_gateway_requires_a_key(stack: Stack, client: OperatorClient) -> None:
    texts = ["good", "bad"]
    body = {"model": "embedding_premium", "input": texts}
    with pytest.raises(urllib.error.HTTPError) as rejected:
        _post_to_gateway(stack, "/v1/embeddings", body, "no-key")
    with rejected.value:
        assert rejected.value.code == 401
    answer = _post_to_gateway(stack, "/v1/embeddings", body, stack.secret("gateway_key"))
    inputs = {"TEXT": np.array([[text.encode()] for text in texts], dtype=np.object_)}
    expected = client.infer("embedding_premium", inputs, ANSWER_DEADLINE_SECONDS).outputs["EMBEDDING"]
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], expected, atol=1e-4)


def test_the_gateway_chats(stack: Stack) -> None:
    messages = [{"role": "user", "content": "Say hello."}]
    body = {"model": "generation_economy", "messages": messages, "max_tokens": 8}
    answer = _post_to_gateway(stack, "/v1/chat/completions", body, stack.secret("gateway_key"))
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] <= 8


def test_replicas_read_the_same_configurations(stack: Stack) -> None:
    for replica in REPLICAS:
        paths = [f"/models/{folder.name}/config.pbtxt" for folder in stack.repository.models()]
        sums = stack.inside(f"triton-{replica}", "sha256sum", *paths).split()[::2]
        assert sums == [
            hashlib.sha256(folder.config_path.read_bytes()).hexdigest() for folder in stack.repository.models()
        ]


def test_models_and_root_file_systems_cannot_be_written(stack: Stack) -> None:
    for service in stack.containers():
        paths = ["/x"] + (["/models/x", "/opt/tritonserver/backends/x"] if service.startswith("triton-") else [])
        for path in paths:
            with pytest.raises(ServerError, match="Read-only file system"):
                stack.inside(service, "touch", path, user="0")


def test_every_process_is_unprivileged(stack: Stack) -> None:
    for service in stack.containers():
        statuses = stack.inside(service, "sh", "-c", "cat /proc/[0-9]*/status").split("Name:\t")[1:]
        for status in statuses:
            fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
            assert "0" not in fields["Uid"].split(), (service, status)
            assert {int(fields[name], 16) for name in ("CapEff", "CapBnd", "CapPrm")} == {0}, (service, status)
            assert fields["NoNewPrivs"].strip() == "1", (service, status)


def test_the_repository_api_is_blocked_by_envoy_and_requires_the_key_on_replicas(
    stack: Stack, client: OperatorClient
) -> None:
    with pytest.raises(ClientError):
        client.index(ANSWER_DEADLINE_SECONDS)
    with pytest.raises(urllib.error.HTTPError) as rejected:
        urllib.request.urlopen(stack.url("ENVOY_HTTP_PORT", "/v2/repository/index"), b"", timeout=scaled(10))
    with rejected.value:
        assert 400 <= rejected.value.code < 500
    for replica in REPLICAS:
        with stack.replica_client(replica) as admin:
            # Skipped models have no state.
            assert {version.state for version in admin.index(ANSWER_DEADLINE_SECONDS)} - {""} == {"READY"}


def test_secrets_are_not_in_inspect_output_or_logs(stack: Stack) -> None:
    texts = {image: stack.engine.docker("history", "--no-trunc", image) for image in stack.images()}
    for service, container in stack.containers().items():
        texts[service] = stack.engine.docker("inspect", container) + stack.engine.docker("logs", container)
    for secret in ("admin_key", "gateway_key", "grafana_password"):
        assert [name for name, text in texts.items() if stack.secret(secret).strip() in text] == []


def test_no_library_collects_usage_events(stack: Stack) -> None:
    # ONNX Runtime stores unsent events below the home directory.
    assert stack.inside("triton-a", "find", "/tmp", "-ipath", "*microsoft*") == ""


def test_a_request_larger_than_shared_memory_fails_without_side_effects(stack: Stack) -> None:
    huge = {"TEXT": np.array([[b"x" * 100_000_000]], dtype=np.object_)}
    small = {"TEXT": np.array([[b"good"]], dtype=np.object_)}
    with stack.replica_client("a") as replica:
        with pytest.raises(ClientError, match="shared memory"):
            replica.infer("embedding_premium", huge, ANSWER_DEADLINE_SECONDS)
        for _ in range(8):
            answer = replica.infer("embedding_premium", small, ANSWER_DEADLINE_SECONDS)
            assert answer.outputs["EMBEDDING"].shape == (1, 384)


def test_prometheus_scrapes_every_service(stack: Stack) -> None:
    def health_by_target() -> dict[str, str]:
        with urllib.request.urlopen(stack.url("PROMETHEUS_PORT", "/api/v1/targets"), timeout=scaled(10)) as answer:
            targets = json.load(answer)["data"]["activeTargets"]
        return {f"{target['labels']['job']} {target['labels']['instance']}": target["health"] for target in targets}

    wait_until(lambda: set(health_by_target().values()) == {"up"}, "every target of Prometheus is up")
    jobs = [target.split()[0] for target in health_by_target()]
    assert sorted(jobs) == ["agent", "agent", "envoy", "gateway", "triton", "triton"]


def test_locust_loads_the_platform_from_a_container(stack: Stack) -> None:
    where = (
        "--locustfile=/opt/trireme/loadtest/locustfile.py",
        "--grpc-address=envoy:8001",
        "--http-address=envoy:8000",
    )
    # Locust exits with an error if a request failed.
    run = ("run", "--rm", "--no-deps", "locust", *where, "--headless", "--users=2", "--run-time=3s")
    stack.run("--profile=loadtest", *run, deadline_seconds=60)


def test_down_stops_the_servers_gracefully_and_leaves_nothing(stack: Stack) -> None:
    stack.run("stop", deadline_seconds=90)
    for replica in REPLICAS:
        for part in ("triton", "agent"):
            # 137 would mean a kill after the grace period.
            assert stack.inspect(f"{part}-{replica}", ".State.ExitCode") == "0", part
    stack.run("down", "--volumes", deadline_seconds=60)
    of_project = f"--filter=label=com.docker.compose.project={PROJECT}"
    for what in (("ps", "--all"), ("network", "ls"), ("volume", "ls")):
        assert stack.engine.docker(*what, "--quiet", of_project) == ""


def _start_triton(built: Stack, *options: str) -> str:
    project, secrets = built.compose.project_dir, built.compose.environment["TRIREME_SECRETS_DIR"]
    mounts = (
        f"--volume={project}/model_repository:/models:ro",
        f"--volume={secrets}/admin_key:/run/secrets/admin_key:ro",
    )
    return built.engine.docker(
        "run", "--rm", "--network=none", "--user=1000:1000", *mounts, *options, "trireme-triton-standin"
    )


def _post_to_gateway(stack: Stack, path: str, body: Mapping[str, Any], key: str) -> dict[str, Any]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key.strip()}"}
    request = urllib.request.Request(stack.url("GATEWAY_PORT", path), json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=ANSWER_DEADLINE_SECONDS) as answer:
        document: dict[str, Any] = json.load(answer)
        return document
