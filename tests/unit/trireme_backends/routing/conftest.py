"""A route of three variants, as rules and as a file."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

RULES: dict[str, Any] = {
    "task": "echo",
    "default_tier": "standard",
    "deadline_ms": 5000,
    "variants": [
        {"name": "small", "tier": "economy", "cost_per_1000": 1, "expected_latency_ms": 2, "quality": 0.7},
        {"name": "medium", "tier": "standard", "cost_per_1000": 2, "expected_latency_ms": 4, "quality": 0.8},
        {"name": "large", "tier": "premium", "cost_per_1000": 4, "expected_latency_ms": 8, "quality": 0.9},
    ],
}


@pytest.fixture
def rules() -> dict[str, Any]:
    return copy.deepcopy(RULES)


@pytest.fixture
def write_route(tmp_path: Path) -> Callable[[Any], Path]:
    def write(document: Any) -> Path:
        path = tmp_path / "route.json"
        path.write_text(document if isinstance(document, str) else json.dumps(document))
        return path

    return write
