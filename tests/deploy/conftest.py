from __future__ import annotations

from collections.abc import Iterator

import pytest
from trireme.errors import ServerError
from trireme.settings import Settings

from tests.deadlines import scaled
from tests.deploy.compose import Compose
from tests.deploy.prepare import built_stack, make_compose
from tests.deploy.stack import Stack

START_DEADLINE_SECONDS = 240


@pytest.fixture(scope="session")
def settings() -> Settings:
    return Settings.from_environment()


@pytest.fixture(scope="session")
def compose(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    return make_compose(settings, tmp_path_factory.mktemp("secrets"))


@pytest.fixture(scope="session")
def built(settings: Settings, compose: Compose) -> Iterator[Stack]:
    """Fast if ``tests.deploy.prepare`` has run."""
    with built_stack(settings, compose) as stack:
        yield stack


@pytest.fixture(scope="session")
def stack(built: Stack) -> Stack:
    wait = f"--wait-timeout={scaled(START_DEADLINE_SECONDS):.0f}"
    try:
        built.run("up", "--detach", "--wait", wait, deadline_seconds=START_DEADLINE_SECONDS + 60)
    except ServerError as error:
        said = built.run("logs", "--no-color", "--tail=8")
        raise ServerError(f"{error}\n{said[-6000:]}") from None
    return built
