"""Fixtures of the chaos suite."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.platform_stack import PlatformStack
from tests.chaos.report import ChaosReport


@pytest.fixture(scope="session")
def report() -> ChaosReport:
    """A report in ``TRIREME_CHAOS_REPORT``; default: ``reports/chaos``."""
    default = Path(__file__).resolve().parents[2] / "reports" / "chaos"
    return ChaosReport(Path(os.environ.get("TRIREME_CHAOS_REPORT", default)))


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PlatformStack]:
    """One stack for all scenarios: each must leave it healthy for the next."""
    with PlatformStack(tmp_path_factory.mktemp("platform")) as running:
        yield running
