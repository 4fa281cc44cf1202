"""Slow preparations for the compose tests, cached between runs: Docker engine, Debian, wheels, images.

python -m tests.deploy.prepare

``make compose-test`` runs it before pytest, so that it does not count against the timeout of a test.
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
    """Compose for this checkout with the settings in ``.env`` only, and new secrets in the directory ``secrets``."""
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("TRI", "COMPOSE_"))}
    subprocess.run([settings.project_dir / "deploy/make-secrets", secrets], env=theirs, check=True, timeout=scaled(10))
    return Compose(
        program=compose_program(settings.state_dir / "compose-test"),
        project_dir=settings.project_dir,
        environment={**theirs, "TRIREME_SECRETS_DIR": str(secrets)},
    )


@contextmanager
def built_stack(settings: Settings, compose: Compose) -> Iterator[Stack]:
    """Build the images without starting services. Afterwards only the images remain, in the cache of the engine."""
    cache = settings.state_dir / "compose-test"
    with docker_engine(cache / "engine") as engine:
        ports = ("ENVOY_GRPC_PORT", "ENVOY_HTTP_PORT", "GATEWAY_PORT", "PROMETHEUS_PORT")
        variables = {
            **standin_variables(engine, settings.project_dir, settings.state_dir),
            **{name: str(port) for name, port in zip(ports, free_ports(len(ports)), strict=True)},
            # There is no stand-in for the Grafana image.
            "COMPOSE_PROFILES": "",
            # Enough for the models, but small enough for a request to exceed it.
            "TRITON_SHM_SIZE": "64m",
        }
        if len(compose.program) == 1:
            # The downloaded plugin, for scripts that call `docker compose`.
            variables["DOCKER_CONFIG"] = str(cache)
        if engine.host:
            variables["DOCKER_HOST"] = engine.host
        stack = Stack(engine, compose, ModelRepository(settings.repository_dir)).with_settings(**variables)
        # Remove services of a killed run, which would respond instead of the new ones.
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
