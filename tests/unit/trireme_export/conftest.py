from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.trireme_export.tiny import Workshop


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    return Workshop(tmp_path, monkeypatch)
