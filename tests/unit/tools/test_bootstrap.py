"""The set-up script on a checkout of its own, with the real pip and the real venv, and no package index."""

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
    """The files that set-up reads, alone."""
    for name in ("pyproject.toml", "constraints.txt", "README.md", "client/pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    shutil.copytree(PROJECT / "tools", tmp_path / "tools")
    return tmp_path


@pytest.fixture
def bootstrap(checkout: Path) -> ModuleType:
    """The script of ``checkout`` as a module, for what needs no process."""
    spec = importlib.util.spec_from_file_location("bootstrap", checkout / "tools/bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_bootstrap(checkout: Path) -> subprocess.CompletedProcess[str]:
    # An index that is not there: nothing listens on port 9 of this machine.
    no_index = {
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "1",
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_CACHE_DIR": "1",
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PIP_")}
    return subprocess.run(
        [sys.executable, "tools/bootstrap.py"],
        cwd=checkout,
        env={**kept, **no_index},
        capture_output=True,
        text=True,
        timeout=scaled(120),
        check=False,
    )


def test_without_a_network_one_sentence_no_stamp_and_nothing_of_an_environment_that_was_cut_off(checkout: Path) -> None:
    half = checkout / ".venv/lib/half-installed"
    half.mkdir(parents=True)
    result = run_bootstrap(checkout)
    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("set-up: pip reaches no package index; check the network")
    assert not (checkout / ".venv/set-up.json").exists()
    assert not half.exists()


def test_a_finished_environment_is_left_alone(checkout: Path, bootstrap: ModuleType) -> None:
    (checkout / ".venv").mkdir()
    bootstrap.STAMP.write_text('{"key": "' + bootstrap.environment_key() + '", "extras": ["dev"]}')
    assert bootstrap._python_environment(["dev"]) is None


def test_a_full_disk_is_named_before_anything_is_written(
    checkout: Path, bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "NEEDED_DISK_BYTES", 1024**6)
    assert bootstrap.main([]) == 1
    assert "are needed; free some" in capsys.readouterr().err
    assert not (checkout / ".venv").exists()


def test_a_second_set_up_waits_for_the_first(
    bootstrap: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bootstrap, "NEEDED_DISK_BYTES", 1024**6)  # so that it ends once it has waited
    bootstrap.STATE.mkdir()
    with ThreadPoolExecutor() as pool, (bootstrap.STATE / "set-up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = pool.submit(bootstrap.main, [])
        shown = ""
        while "another set-up runs here; waiting for it" not in shown:
            assert not second.done()
            shown += capsys.readouterr().out
            time.sleep(0.01)
        fcntl.flock(lock, fcntl.LOCK_UN)
        assert second.result(scaled(60)) == 1
    assert "are needed; free some" in capsys.readouterr().err
