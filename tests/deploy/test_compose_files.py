"""Properties of the compose files as compose parses them. Needs no Docker engine."""

from __future__ import annotations

import os
import stat
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from trireme.processes.machine import Machine
from trireme.processes.server import ServerFlags
from trireme.repository.folders import ModelRepository
from trireme.repository.model_config import load_model_config
from trireme.repository.resource_requirements import shared_memory_bytes
from trireme.settings import Settings

from tests.deadlines import scaled
from tests.deploy.compose import Compose

STANDIN = "tests/deploy/docker-compose.standin.yml"
COMBINATIONS = (
    ("docker-compose.yml",),
    ("docker-compose.yml", "docker-compose.cpu.yml"),
    ("docker-compose.yml", "docker-compose.gpu.yml"),
    ("docker-compose.yml", STANDIN),
)
EDGE = {"envoy", "gateway"}
DASHBOARDS = {"prometheus", "grafana", "locust"}
REPLICAS = ("a", "b")
# Native backends of the image, which this project's backends must not shadow.
NATIVE_BACKENDS = {"onnxruntime", "vllm"}

Services = dict[str, Any]


def _services(compose: Compose, files: tuple[str, ...], **settings: str) -> Services:
    everything = {"COMPOSE_PROFILES": "dashboards,loadtest", **settings}
    found: Services = replace(compose, environment={**compose.environment, **everything}).config(files)["services"]
    return found


@pytest.fixture(scope="module", params=COMBINATIONS, ids=" + ".join)
def services(request: pytest.FixtureRequest, compose: Compose) -> Services:
    return _services(compose, request.param)


def test_only_edge_and_dashboards_publish_ports_and_only_on_loopback(services: Services) -> None:
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert set(published) == EDGE | DASHBOARDS
    assert {port["host_ip"] for ports in published.values() for port in ports} == {"127.0.0.1"}


def test_opening_the_edge_keeps_the_dashboards_on_loopback(compose: Compose) -> None:
    services = _services(compose, COMBINATIONS[0], PUBLISH_ADDRESS="0.0.0.0")
    assert {port["host_ip"] for name in EDGE for port in services[name]["ports"]} == {"0.0.0.0"}
    assert {port["host_ip"] for name in DASHBOARDS for port in services[name]["ports"]} == {"127.0.0.1"}


def test_replicas_are_only_on_the_inner_network(compose: Compose, services: Services) -> None:
    assert compose.config(COMBINATIONS[0])["networks"]["inner"]["internal"] is True
    for replica in REPLICAS:
        assert set(services[f"replica-{replica}"]["networks"]) == {"inner"}
        for name in (f"triton-{replica}", f"agent-{replica}"):
            assert services[name]["network_mode"] == f"service:replica-{replica}"
            assert "networks" not in services[name]


def test_replicas_differ_only_in_their_names(services: Services) -> None:
    first, second = (
        [_without_build(services[f"{part}-{replica}"], replica) for part in ("replica", "triton", "agent")]
        for replica in REPLICAS
    )
    assert first == second


def test_every_host_mount_exists_and_is_read_only(services: Services) -> None:
    mounts = [mount for service in services.values() for mount in service.get("volumes", [])]
    assert mounts
    bound = [mount for mount in mounts if mount["type"] == "bind"]
    assert [mount for mount in bound if not mount.get("read_only")] == []
    # Docker would create a directory for a missing path.
    assert [mount["source"] for mount in bound if not Path(mount["source"]).exists()] == []


def test_services_run_without_privileges(services: Services) -> None:
    for name, service in services.items():
        assert service["user"].split(":")[0] not in ("", "0", "root"), name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert service["read_only"] is True, name
        assert not service.get("privileged"), name


def test_services_restart_have_an_init_process_and_a_health_check(services: Services) -> None:
    for name, service in services.items():
        assert service["init"] is True, name
        if name != "locust":
            assert service["restart"] == "unless-stopped", name
        if name != "locust" and not name.startswith("replica-"):
            assert service["healthcheck"]["test"], name


def test_no_service_waits_for_the_health_of_another_so_one_unhealthy_replica_blocks_none(services: Services) -> None:
    conditions = {
        (name, needed): dependency["condition"]
        for name, service in services.items()
        for needed, dependency in service.get("depends_on", {}).items()
    }
    assert conditions
    assert set(conditions.values()) == {"service_started"}


def test_logs_are_rotated(services: Services) -> None:
    for name, service in services.items():
        assert service["logging"]["driver"] == "json-file", name
        assert {"max-size", "max-file"} <= set(service["logging"]["options"]), name


def test_pulled_images_are_pinned_to_a_release(services: Services) -> None:
    pulled = [service["image"] for service in services.values() if service.get("pull_policy") != "never"]
    pulled = [image for image in pulled if not image.startswith("trireme")]
    assert [image for image in pulled if ":" not in image or image.endswith(":latest")] == []


def test_secrets_are_only_in_files(compose: Compose, tmp_path: Path) -> None:
    secret = "not-in-any-compose-file-0123456789abcdef"
    directory = str(tmp_path)
    for files in COMBINATIONS:
        keyed = {"COMPOSE_PROFILES": "dashboards,loadtest", "TRIREME_SECRETS_DIR": directory}
        merged = replace(compose, environment={**compose.environment, **keyed}).config(files)
        for name, declared in merged["secrets"].items():
            Path(declared["file"]).write_text(secret)
            assert declared["file"] == str(tmp_path / name)
        assert secret not in str(merged)


def test_secrets_are_created_for_the_container_user_only_and_kept(compose: Compose, services: Services) -> None:
    for service in services.values():
        for name in (secret["source"] for secret in service.get("secrets", [])):
            status = Path(compose.environment["TRIREME_SECRETS_DIR"], name).stat()
            assert stat.S_IMODE(status.st_mode) == 0o600, name
            if os.geteuid() == 0:
                assert f"{status.st_uid}:{status.st_gid}" == service["user"], name


def test_stop_grace_period_exceeds_tritons_exit_timeout(services: Services) -> None:
    for replica in REPLICAS:
        triton = services[f"triton-{replica}"]
        timeout = next(flag for flag in triton["command"] if flag.startswith("--exit-timeout-secs="))
        assert _seconds(triton["stop_grace_period"]) > int(timeout.partition("=")[2])


def test_triton_has_the_same_flags_as_under_trireme_serve(services: Services) -> None:
    # Except for paths and addresses, and flags that start-triton adds.
    elsewhere = (
        "load-model",
        "repository",
        "directory",
        "-port",
        "-address",
        "restricted",
        "shm-region",
        "verbose",
        "exit-on-error",
    )
    flags = ServerFlags(Path("/models")).arguments(Path("/backends"), Path("/caches"), "prefix")
    served = {flag for flag in flags if not any(word in flag for word in elsewhere)}
    for replica in REPLICAS:
        assert {flag for flag in services[f"triton-{replica}"]["command"] if flag.startswith("--")} == served


def test_envoys_files_are_up_to_date(settings: Settings, tmp_path: Path) -> None:
    subprocess.run([settings.project_dir / "deploy/make-envoy-config", tmp_path], check=True, timeout=scaled(60))
    committed = settings.project_dir / "deploy/envoy"
    rendered = {path.relative_to(tmp_path): path.read_text() for path in tmp_path.rglob("*.yaml")}
    assert rendered
    assert {path.relative_to(committed): path.read_text() for path in committed.rglob("*.yaml")} == rendered


def test_the_image_has_every_backend_without_a_native_twin(settings: Settings) -> None:
    ignored = (settings.project_dir / "deploy/images/triton/Dockerfile.dockerignore").read_text().split()
    for model in (settings.project_dir / "backends").glob("*/model.py"):
        backend = model.parent.name
        assert (f"backends/{backend}" in ignored) is (backend in NATIVE_BACKENDS), backend


def test_the_repository_is_mounted_as_one_directory_so_that_configs_are_the_same_files(
    settings: Settings, services: Services
) -> None:
    for name in ("triton-a", "triton-b", "agent-a", "agent-b"):
        targets = {mount["target"]: mount["source"] for mount in services[name]["volumes"]}
        assert targets["/models"] == str(settings.repository_dir)
        assert [target for target in targets if target.startswith("/models/")] == []


def test_shared_memory_is_large_enough_for_the_models(services: Services, settings: Settings) -> None:
    configs = [load_model_config(folder.config_path) for folder in ModelRepository(settings.repository_dir).models()]
    needed = shared_memory_bytes(configs, Machine.present())
    for replica in REPLICAS:
        assert 0 < needed <= int(services[f"triton-{replica}"]["shm_size"])


def test_only_the_gpu_file_requests_gpus_and_for_every_replica(compose: Compose) -> None:
    for files in COMBINATIONS:
        asking = {name for name, service in _services(compose, files).items() if "devices" in str(service)}
        assert asking == ({"triton-a", "triton-b"} if "docker-compose.gpu.yml" in files else set())


def _without_build(service: dict[str, Any], replica: str) -> str:
    """The service as text, without the differences between replicas: the build and the name suffix."""
    alike = {key: value for key, value in service.items() if key not in ("build", "pull_policy")}
    return (
        str(alike)
        .replace(f"-{replica}'", "-X'")
        .replace(f"'TRIREME_AGENT_ZONE': '{replica}'", "")
        .replace(f"service:replica-{replica}", "service:replica-X")
    )


def _seconds(duration: str) -> float:
    """Seconds of a duration in compose's format, like ``1m30s``."""
    minutes, _, seconds = duration.rpartition("m") if "m" in duration else ("0", "", duration)
    return 60 * int(minutes or 0) + float(seconds.rstrip("s") or 0)
