"""A stub is any child with the command line of a stub: here a sleeping Python."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from trireme.processes.stubs import StubWatch, stub_processes

from tests.deadlines import scaled


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    model = tmp_path / "echo" / "3" / "model.py"
    model.parent.mkdir(parents=True)
    model.write_text("import time\ntime.sleep(600)\n")
    process = subprocess.Popen(["triton_python_backend_stub", str(model), "region"], executable=sys.executable)
    yield process
    process.kill()
    process.wait(timeout=scaled(30))


def wait_for_status(process: subprocess.Popen[bytes], status: str) -> None:
    deadline = time.monotonic() + scaled(30)
    while psutil.Process(process.pid).status() != status:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_live_stub_is_not_reported(stub: subprocess.Popen[bytes]) -> None:
    watch = StubWatch(os.getpid())
    assert [process.pid for process in stub_processes(os.getpid())] == [stub.pid]
    assert watch.find_dead() == watch.find_dead() == []
    assert stub.poll() is None


def test_a_dead_stub_is_reported_once_with_its_model(stub: subprocess.Popen[bytes]) -> None:
    watch = StubWatch(os.getpid())
    watch.find_dead()
    os.kill(stub.pid, signal.SIGKILL)
    wait_for_status(stub, psutil.STATUS_ZOMBIE)
    assert [(dead.pid, dead.model, dead.version) for dead in watch.find_dead()] == [(stub.pid, "echo", 3)]
    assert watch.find_dead() == []


def test_a_stub_that_stays_stopped_is_killed_and_reported(stub: subprocess.Popen[bytes]) -> None:
    watch = StubWatch(os.getpid())
    os.kill(stub.pid, signal.SIGSTOP)
    wait_for_status(stub, psutil.STATUS_STOPPED)
    assert watch.find_dead() == []
    assert psutil.Process(stub.pid).status() == psutil.STATUS_STOPPED
    dead = watch.find_dead()
    wait_for_status(stub, psutil.STATUS_ZOMBIE)
    # The call that killed it may already have reported it.
    dead += watch.find_dead()
    assert [one.model for one in dead] == ["echo"]


def test_a_briefly_stopped_stub_is_kept(stub: subprocess.Popen[bytes]) -> None:
    watch = StubWatch(os.getpid())
    os.kill(stub.pid, signal.SIGSTOP)
    wait_for_status(stub, psutil.STATUS_STOPPED)
    watch.find_dead()
    os.kill(stub.pid, signal.SIGCONT)
    wait_for_status(stub, psutil.STATUS_SLEEPING)
    watch.find_dead()
    os.kill(stub.pid, signal.SIGSTOP)
    wait_for_status(stub, psutil.STATUS_STOPPED)
    assert watch.find_dead() == []
    assert psutil.Process(stub.pid).status() == psutil.STATUS_STOPPED
