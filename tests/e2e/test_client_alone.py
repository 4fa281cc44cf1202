"""The client installs and works without the rest of the project, on each available Python."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.deadlines import scaled

PROJECT = Path(__file__).parents[2]
INSTALL_DEADLINE_SECONDS = scaled(600)


def _pythons():
    """Working interpreters on PATH; a shim of a version that is not installed does not start."""
    for minor in (10, 11, 12, 13):
        found = shutil.which(f"python3.{minor}")
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            yield found


@pytest.mark.parametrize("python", list(_pythons()))
def test_the_client_works_alone(python, tmp_path):
    source = tmp_path / "client"
    shutil.copytree(PROJECT / "client", source, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__", "build"))
    subprocess.run([python, "-m", "venv", tmp_path / "venv"], check=True, timeout=scaled(120))
    own = tmp_path / "venv" / "bin" / "python"
    install = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source]
    subprocess.run(install, check=True, timeout=INSTALL_DEADLINE_SECONDS)
    ran = subprocess.run(
        [own, "-W", "error", PROJECT / "tests" / "e2e" / "client_smoke.py"],
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
        cwd=tmp_path,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("ok: Python 3.")
