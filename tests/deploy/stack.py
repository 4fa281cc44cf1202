"""The services of the compose files."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass, replace
from pathlib import Path

from trireme.repository.folders import ModelRepository
from trireme_client import OperatorClient

from tests.deadlines import scaled
from tests.deploy.compose import Compose
from tests.deploy.engine import Engine, run

FILES = ("docker-compose.yml", "docker-compose.cpu.yml", "tests/deploy/docker-compose.standin.yml")
PROJECT = "trireme-compose-test"
REPLICAS = ("a", "b")
ROLL_DEADLINE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Stack:
    """The services of the compose files: built and, in most tests, started."""

    engine: Engine
    compose: Compose
    repository: ModelRepository

    def run(self, *arguments: str, deadline_seconds: float = 60) -> str:
        return self.compose.run(FILES, f"--project-name={PROJECT}", *arguments, deadline_seconds=deadline_seconds)

    def roll(self, *replicas: str) -> str:
        """Run ``deploy/roll``, which reads project and files from compose's variables."""
        project = self.compose.project_dir
        files = ":".join(str(project / file) for file in FILES)
        environment = {**self.compose.environment, "COMPOSE_PROJECT_NAME": PROJECT, "COMPOSE_FILE": files}
        return run([str(project / "deploy/roll"), *replicas], environment, deadline_seconds=ROLL_DEADLINE_SECONDS)

    def container(self, service: str) -> str:
        return self.run("ps", "--all", "--quiet", service).strip()

    def containers(self) -> dict[str, str]:
        """Container ids by service."""
        listed = self.run("ps", "--format={{.Service}} {{.ID}}").split()
        return dict(zip(listed[::2], listed[1::2], strict=True))

    def images(self) -> set[str]:
        return set(self.run("config", "--images").split())

    def inside(self, service: str, *command: str, user: str = "") -> str:
        as_user = [f"--user={user}"] if user else []
        return self.engine.docker("exec", *as_user, self.container(service), *command)

    def inspect(self, service: str, field: str) -> str:
        return self.engine.docker("inspect", f"--format={{{{{field}}}}}", self.container(service)).strip()

    def client(self) -> OperatorClient:
        """A client that uses Envoy, like every caller."""
        return OperatorClient(f"127.0.0.1:{self.compose.environment['ENVOY_GRPC_PORT']}")

    def replica_client(self, replica: str) -> OperatorClient:
        """A client that bypasses Envoy, with the admin key."""
        return OperatorClient(f"{self._address(replica)}:8001", self.secret("admin_key"))

    def is_ready(self, replica: str) -> bool:
        """Whether its agent reports ready."""
        try:
            with urllib.request.urlopen(f"http://{self._address(replica)}:8003/readyz", timeout=scaled(5)) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _address(self, replica: str) -> str:
        # An address of the inner network, which is reachable from this machine over the bridge.
        return self.inspect(f"replica-{replica}", "range .NetworkSettings.Networks}}{{.IPAddress}}{{end")

    def secret(self, name: str) -> str:
        return Path(self.compose.environment["TRIREME_SECRETS_DIR"], name).read_text()

    def url(self, port: str, path: str) -> str:
        return f"http://127.0.0.1:{self.compose.environment[port]}{path}"

    def with_settings(self, **variables: str) -> Stack:
        environment = {**self.compose.environment, **variables}
        return replace(self, compose=replace(self.compose, environment=environment))
