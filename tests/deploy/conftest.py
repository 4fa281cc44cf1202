from __future__ import annotations

import os
from pathlib import Path

import pytest
from trireme.settings import Settings

from tests.deploy.compose import Compose, compose_program


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.from_environment()


@pytest.fixture(scope="session")
def compose(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """Compose on this checkout with the settings of ``.env`` alone, and an admin key of the tests' own."""
    key: Path = tmp_path_factory.mktemp("secrets") / "admin_key"
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("TRITON_", "COMPOSE_"))}
    return Compose(
        program=compose_program(settings.state_dir / "compose-test"),
        project_dir=settings.project_dir,
        environment={**theirs, "TRITON_ADMIN_KEY_FILE": str(key)},
    )
