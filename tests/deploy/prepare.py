"""What the tests of compose need and what takes minutes: a Docker engine, Debian, wheels, images; kept between runs.

python -m tests.deploy.prepare

``make compose-test`` runs it before pytest, so that no test's hang guard counts it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trireme.errors import TriremeError
from trireme.processes.ports import free_ports
from trireme.repository.folders import ModelRepository
from trireme.settings import Settings

from tests.deadlines import scaled
from tests.deploy.compose import Compose, compose_program
from tests.deploy.engine import docker_engine
from tests.deploy.stack import Stack
from tests.deploy.standin import standin_variables


def make_compose(settings: Settings, secrets: Path) -> Compose:
    """Compose on this checkout with the settings of ``.env`` alone, and new secrets in the folder ``secrets``."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("TRI", "COMPOSE_"))}
    subprocess.run([settings.project_dir / "deploy/make-secrets", secrets], env=theirs, check=True, timeout=scaled(10))
    return Compose(
        program=compose_program(settings.state_dir / "compose-test"),
        project_dir=settings.project_dir,
        environment={**theirs, "TRIREME_SECRETS_DIR": str(secrets)},
    )


@contextmanager
def built_stack(settings: Settings, compose: Compose) -> Iterator[Stack]:
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
            print("compose-test: building the images", flush=True)
            stack.run("build", deadline_seconds=600)
            yield stack
        finally:
            stack.run("down", "--volumes", "--remove-orphans", deadline_seconds=90)


def main() -> int:
    settings, began = Settings.from_environment(), time.monotonic()
    with tempfile.TemporaryDirectory() as secrets:
        try:
            with built_stack(settings, make_compose(settings, Path(secrets))):
                print(f"compose-test: prepared in {time.monotonic() - began:.0f} s", flush=True)
        except TriremeError as error:
            print(f"compose-test: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
