from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from trireme.errors import ServerError
from trireme.ports import free_ports
from trireme.repository import ModelRepository
from trireme.settings import Settings

from tests.deploy.compose import Compose, compose_program
from tests.deploy.engine import docker_engine
from tests.deploy.stack import Stack
from tests.deploy.standin import standin_variables

START_DEADLINE_SECONDS = 240


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.from_environment()


@pytest.fixture(scope="session")
def compose(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Compose on this checkout with the settings of ``.env`` alone, and secrets of the tests' own."""
    secrets = tmp_path_factory.mktemp("secrets")
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("TRI", "COMPOSE_"))}
    subprocess.run([settings.project_dir / "deploy/make-secrets", secrets], env=theirs, check=True, timeout=10)
    return Compose(
        program=compose_program(settings.state_dir / "compose-test"),
        project_dir=settings.project_dir,
        environment={**theirs, "TRIREME_SECRETS_DIR": str(secrets)},
    )


@pytest.fixture(scope="session")
def built(settings: Settings, compose: Compose) -> Iterator[Stack]:
    """The images, and nothing up. Afterwards nothing is left but the images in the cache of the engine."""
    cache = settings.state_dir / "compose-test"
    with docker_engine(cache / "engine") as engine:
        ports = ("ENVOY_GRPC_PORT", "ENVOY_HTTP_PORT", "GATEWAY_PORT", "PROMETHEUS_PORT")
        variables = {
            **standin_variables(engine, settings.project_dir, settings.state_dir),
            **{name: str(port) for name, port in zip(ports, free_ports(len(ports)), strict=True)},
            # No image of Grafana can be stood in for.
            "COMPOSE_PROFILES": "",
            # Small enough to be outgrown, and still what the models need.
            "TRITON_SHM_SIZE": "64m",
        }
        if len(compose.program) == 1:
            # The plugin that was fetched, for the scripts that call `docker compose`.
            variables["DOCKER_CONFIG"] = str(cache)
        if engine.host:
            variables["DOCKER_HOST"] = engine.host
        stack = Stack(engine, compose, ModelRepository(settings.repository_dir)).with_settings(**variables)
        # What a killed run left would answer in place of this one's.
        stack.run("down", "--volumes", "--remove-orphans", deadline_seconds=90)
        try:
            stack.run("build", deadline_seconds=300)
            yield stack
        finally:
            stack.run("down", "--volumes", "--remove-orphans", deadline_seconds=90)


@pytest.fixture(scope="session")
def stack(built: Stack) -> Stack:
    try:
        built.run("up", "--detach", "--wait", f"--wait-timeout={START_DEADLINE_SECONDS}", deadline_seconds=300)
    except ServerError as error:
        said = built.run("logs", "--no-color", "--tail=8")
        raise ServerError(f"{error}\n{said[-6000:]}") from None
    return built
