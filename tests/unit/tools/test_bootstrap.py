"""The set-up script in a temporary checkout, with the real pip and venv and without a package index."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import pytest

from tests.deadlines import scaled

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Only the files that set-up reads."""
    for name in ("pyproject.toml", "constraints.txt", "README.md", "client/pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    shutil.copytree(PROJECT / "tools", tmp_path / "tools")
    return tmp_path


@pytest.fixture
def bootstrap(checkout: Path) -> ModuleType:
    """The script of ``checkout`` as a module, for tests that need no process."""
    spec = importlib.util.spec_from_file_location("bootstrap", checkout / "tools/bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_bootstrap(checkout: Path) -> subprocess.CompletedProcess[str]:
    # An unreachable index: nothing listens on port 9.
    no_index = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
    }
    others = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, "tools/bootstrap.py"],
        cwd=checkout,
        env={**others, **no_index},
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )


def test_without_a_network_there_is_one_line_no_stamp_and_no_remains_of_an_interrupted_set_up(checkout: Path) -> None:
    partial = checkout / ".venv/lib/half-installed"
    partial.mkdir(parents=True)
    result = run_bootstrap(checkout)
    assert result.returncode == 1
    (message,) = result.stderr.splitlines()
    assert message.startswith("set-up: pip cannot reach a package index; check the network")
    assert not (checkout / ".venv/set-up.json").exists()
    assert not partial.exists()


def test_a_complete_environment_is_kept(checkout: Path, bootstrap: ModuleType) -> None:
    (checkout / ".venv").mkdir()
    bootstrap.STAMP.write_text('{"key": "' + bootstrap.environment_key() + '", "extras": ["dev"]}')
    assert bootstrap._python_environment(["dev"]) is None


def test_a_full_disk_is_reported_before_anything_is_written(
    checkout: Path, bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "NEEDED_DISK_BYTES", 1024**6)
    assert bootstrap.main([]) == 1
    assert "are needed; free some space" in capsys.readouterr().err
    assert not (checkout / ".venv").exists()


def test_a_second_set_up_waits_for_the_first(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "NEEDED_DISK_BYTES", 1024**6)  # so that it ends after waiting
    bootstrap.STATE.mkdir()
    with ThreadPoolExecutor() as pool, (bootstrap.STATE / "set-up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = pool.submit(bootstrap.main, [])
        shown = ""
        while "waiting for another set-up to finish" not in shown:
            assert not second.done()
            shown += capsys.readouterr().out
            time.sleep(0.01)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert second.result(scaled(60)) == 1
    assert "are needed; free some space" in capsys.readouterr().err
