"""The set-up script on a checkout of its own, with the real pip and the real venv, and no package index."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that set-up reads, alone."""
    for name in ("pyproject.toml", "constraints.txt", "README.md", "client/pyproject.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    shutil.copytree(PROJECT / "tools", tmp_path / "tools")
    return tmp_path


def run_bootstrap(checkout: Path, **environment: str) -> subprocess.CompletedProcess[str]:
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
        env={**kept, **no_index, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_without_a_network_one_sentence_and_no_stamp(checkout: Path) -> None:
    result = run_bootstrap(checkout)
    assert result.returncode == 1
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("set-up: pip reaches no package index; check the network")
    assert not (checkout / ".venv/set-up.json").exists()


def test_an_environment_that_was_cut_off_is_made_anew(checkout: Path) -> None:
    half = checkout / ".venv/lib/half-installed"
    half.mkdir(parents=True)
    run_bootstrap(checkout)
    assert not half.exists()


def test_a_finished_environment_is_left_alone(checkout: Path) -> None:
    sys.path.insert(0, str(checkout / "tools"))
    try:
        import bootstrap  # type: ignore[import-not-found]

        (checkout / ".venv").mkdir()
        bootstrap.STAMP.write_text('{"key": "' + bootstrap.environment_key() + '", "extras": ["dev"]}')
        assert bootstrap._python_environment(["dev"]) is None
    finally:
        sys.path.remove(str(checkout / "tools"))
        sys.modules.pop("bootstrap", None)


def test_a_full_disk_is_named_before_anything_is_written(checkout: Path) -> None:
    source = checkout / "tools/bootstrap.py"
    source.write_text(source.read_text().replace("NEEDED_DISK_BYTES = 3 * 1024**3", "NEEDED_DISK_BYTES = 1024**6"))
    result = run_bootstrap(checkout)
    assert result.returncode == 1
    assert "are needed; free some" in result.stderr
    assert not (checkout / ".venv").exists()


def test_a_second_set_up_waits_for_the_first(checkout: Path) -> None:
    (checkout / ".trireme").mkdir()
    with (checkout / ".trireme/set-up.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release = threading.Timer(1.0, fcntl.flock, (lock, fcntl.LOCK_UN))
        release.start()
        result = run_bootstrap(checkout)
        release.join()
    assert "another set-up runs here; waiting for it" in result.stdout
