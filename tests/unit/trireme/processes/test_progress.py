from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from trireme.processes.progress import Progress


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text("begun\n")
    return path


@pytest.fixture
def idle() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def test_a_waiting_process_makes_no_progress(idle: subprocess.Popen[bytes], log: Path) -> None:
    progress = Progress(idle.pid, log)
    first = progress.stalled_seconds()
    assert 0 < first < progress.stalled_seconds()


def test_a_growing_log_is_progress(idle: subprocess.Popen[bytes], log: Path) -> None:
    progress = Progress(idle.pid, log)
    assert progress.stalled_seconds() > 0
    log.write_text("begun\nloading\n")
    assert progress.stalled_seconds() == 0


def test_reading_is_progress(log: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(bytes(9 * 1024**2))
    progress = Progress(os.getpid(), log)
    assert progress.stalled_seconds() > 0
    weights.read_bytes()
    assert progress.stalled_seconds() == 0


def test_computing_is_progress(log: Path) -> None:
    progress = Progress(os.getpid(), log)
    begun = time.process_time()
    while time.process_time() - begun < 1.1:
        pass
    assert progress.stalled_seconds() == 0
    assert progress.stalled_seconds() > 0


def test_an_exited_process_makes_no_progress(log: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    progress = Progress(gone.pid, log)
    assert progress.stalled_seconds() > 0
