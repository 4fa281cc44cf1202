"""What every verb of the command line shares: one sentence for an error, and an end at Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trireme import cli

from tests.deadlines import scaled

TRIREME = Path(sys.executable).with_name("trireme")


def test_help_names_every_verb_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in ("serve", "ask", "export", "lint", "doctor", "publish", "bench", "load"):
        assert f"  {verb} " in shown


def test_wrong_usage_exits_2() -> None:
    done = subprocess.run([TRIREME, "serv"], capture_output=True, text=True, timeout=scaled(60), check=False)
    assert done.returncode == 2
    assert "No such command 'serv'" in done.stderr


@pytest.mark.parametrize("after_seconds", [0.2, 0.4])
def test_ctrl_c_while_a_verb_is_imported_leaves_no_traceback(after_seconds: float) -> None:
    running = subprocess.Popen([TRIREME, "lint", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    time.sleep(after_seconds)
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=scaled(60))
    # Before Python itself has started, its own start-up code may still speak.
    assert "trireme/" not in errors
    assert "numpy" not in errors


def test_verb_whose_packages_are_missing_says_so_and_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None in sys.modules is how Python is told that a module cannot be found.
    monkeypatch.setitem(sys.modules, "trireme.status", None)
    monkeypatch.delitem(sys.modules, "trireme.commands.status", raising=False)
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "Not here: needs trireme.status" in told
    assert "demo" in told
    assert cli.main(["status", "--json"]) == 1
    assert "trireme status needs the package trireme.status, which is not installed" in capsys.readouterr().err
