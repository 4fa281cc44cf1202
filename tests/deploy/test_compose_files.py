"""What the compose files promise, read back the way compose understands them. Needs no Docker engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trireme.demand import shared_memory_bytes
from trireme.machine import Machine
from trireme.model_config import load_model_config
from trireme.repository import ModelRepository
from trireme.settings import Settings

from tests.deploy.compose import Compose

COMBINATIONS = (
    ("docker-compose.yml",),
    ("docker-compose.yml", "docker-compose.cpu.yml"),
    ("docker-compose.yml", "docker-compose.gpu.yml"),
    ("docker-compose.yml", "tests/deploy/docker-compose.standin.yml"),
)
# Where the image has its own backend of the name: ours must not cover it.
NATIVE_BACKENDS = {"onnxruntime"}


@pytest.fixture(scope="module", params=COMBINATIONS, ids=" + ".join)
def services(request: pytest.FixtureRequest, compose: Compose) -> dict[str, Any]:
    found: dict[str, Any] = compose.config(request.param)["services"]
    return found


def test_ports_are_published_on_loopback_alone(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_every_mount_of_the_host_is_read_only(services: dict[str, Any]) -> None:
    mounts = [mount for service in services.values() for mount in service["volumes"]]
    assert mounts
    assert [mount for mount in mounts if not mount.get("read_only")] == []


def test_services_run_without_privileges(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["user"].split(":")[0] not in ("", "0", "root")
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
        assert service["read_only"] is True
        assert not service.get("privileged")


def test_logs_are_rotated(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["logging"]["driver"] == "json-file"
        assert {"max-size", "max-file"} <= set(service["logging"]["options"])


def test_the_admin_key_is_a_file_and_stands_nowhere_else(compose: Compose, tmp_path: Path) -> None:
    key = tmp_path / "admin_key"
    key.write_text("not-in-any-compose-file-0123456789abcdef")
    keyed = Compose(compose.program, compose.project_dir, {**compose.environment, "TRITON_ADMIN_KEY_FILE": str(key)})
    for files in COMBINATIONS:
        merged = keyed.config(files)
        assert key.read_text() not in str(merged)
        assert merged["secrets"]["admin_key"]["file"] == str(key)


def test_docker_waits_longer_than_triton_takes_to_stop(services: dict[str, Any]) -> None:
    triton = services["triton"]
    timeout = next(flag for flag in triton["command"] if flag.startswith("--exit-timeout-secs="))
    assert _seconds(triton["stop_grace_period"]) > int(timeout.partition("=")[2])


def test_every_backend_without_a_native_twin_is_mounted(settings: Settings, compose: Compose) -> None:
    targets = _mount_targets(compose, COMBINATIONS[0])
    for model in (settings.project_dir / "backends").glob("*/model.py"):
        backend = model.parent.name
        assert (f"/opt/tritonserver/backends/{backend}" in targets) is (backend not in NATIVE_BACKENDS), backend


def test_the_repository_is_mounted_whole_so_that_configs_are_the_same_files(
    settings: Settings, compose: Compose
) -> None:
    for files in COMBINATIONS:
        targets = _mount_targets(compose, files)
        assert targets["/models"] == str(settings.repository_dir)
        assert [target for target in targets if target.startswith("/models/")] == []


def test_shared_memory_holds_what_the_models_ask_for(services: dict[str, Any], settings: Settings) -> None:
    configs = [load_model_config(folder.config_path) for folder in ModelRepository(settings.repository_dir).models()]
    needed = shared_memory_bytes(configs, Machine.present())
    assert 0 < needed <= int(services["triton"]["shm_size"])


def test_only_the_gpu_file_asks_for_a_gpu(compose: Compose) -> None:
    asking = [files for files in COMBINATIONS if "devices" in str(compose.config(files)["services"]["triton"])]
    assert asking == [("docker-compose.yml", "docker-compose.gpu.yml")]


def _mount_targets(compose: Compose, files: tuple[str, ...]) -> dict[str, str]:
    mounts = compose.config(files)["services"]["triton"]["volumes"]
    return {mount["target"]: mount["source"] for mount in mounts}


def _seconds(duration: str) -> float:
    """Seconds of a duration as compose writes it, like ``1m30s``."""
    minutes, _, seconds = duration.rpartition("m") if "m" in duration else ("0", "", duration)
    return 60 * int(minutes or 0) + float(seconds.rstrip("s") or 0)
