"""Shared by tests of rules and dashboards: Prometheus' programs, and dashboard expressions with their metrics."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from trireme.errors import TriremeError

from tests.deploy.standin import PROMETHEUS_PACKAGES, debian_packages

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
PROMETHEUS, GRAFANA = DEPLOY / "prometheus", DEPLOY / "grafana"
_NO_METRICS = re.compile(r"\"[^\"]*\"|\{[^}]*\}|\b(?:by|on|without|group_left|group_right|ignoring)\s*\([^)]*\)")
_NAME = re.compile(r"\b(?:nv|envoy|trireme)_\w+|\b\w+:[\w:]+|\bup\b|\bALERTS\b")


def prometheus_programs() -> Path:
    """The directory of ``prometheus`` and ``promtool``: installed, or unpacked from Debian's package.

    Skips the test if neither is available.
    """
    found = shutil.which("promtool")
    if found and shutil.which("prometheus"):
        return Path(found).parent
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("Prometheus is not installed, and only Debian and Ubuntu have its package")
    try:
        return debian_packages(PROMETHEUS_PACKAGES) / "usr" / "bin"
    except TriremeError as error:
        pytest.skip(f"Prometheus is not installed, and its package cannot be downloaded: {error}")


@dataclass(frozen=True, slots=True)
class Expression:
    """One PromQL expression of a panel; ``place`` is its dashboard and title."""

    place: str
    text: str


def dashboards() -> dict[str, dict[str, Any]]:
    """Dashboards by file name."""
    return {path.name: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}


def panel_expressions() -> Iterator[Expression]:
    for board in dashboards().values():
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                yield Expression(f"{board['title']}: {panel['title']}", target["expr"])


def metrics_in(expression: str) -> set[str]:
    """Names of metrics in a PromQL expression, without label names."""
    return set(_NAME.findall(_NO_METRICS.sub(" ", expression)))
