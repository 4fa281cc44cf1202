"""Behaviour of every command: help, one line for an error, exit at Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trireme import cli

from tests.deadlines import scaled

TRIREME = Path(sys.executable).with_name("trireme")
_ENDLESS_IMPORT = """
import sys, time
from trireme import cli
class Forever:
    def find_spec(self, name, path=None, target=None):
        if name == "trireme.commands.lint":
            print("importing", flush=True)
            time.sleep(600)
sys.meta_path.insert(0, Forever())
sys.exit(cli.main(["lint", "--help"]))
"""


def test_help_lists_every_command_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for command in ("serve", "ask", "export", "lint", "doctor", "publish", "bench", "load"):
        assert f"  {command} " in shown


def test_a_usage_error_exits_with_2() -> None:
    done = subprocess.run([TRIREME, "serv"], capture_output=True, text=True, timeout=scaled(60), check=False)
    assert done.returncode == 2
    assert "No such command 'serv'" in done.stderr


def test_ctrl_c_during_an_import_ends_the_command_at_once_without_a_traceback() -> None:
    command = [sys.executable, "-c", _ENDLESS_IMPORT]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "importing\n"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=scaled(60))
    assert running.returncode == -signal.SIGINT
    assert errors == ""


def test_a_command_with_missing_packages_reports_them_and_the_others_still_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None in sys.modules makes an import fail as if the module did not exist.
    monkeypatch.setitem(sys.modules, "trireme.serving.status", None)
    monkeypatch.delitem(sys.modules, "trireme.commands.status", raising=False)
    assert cli.main(["--help"]) == 0
    listing = capsys.readouterr().out
    assert "Not available: needs trireme.serving.status" in listing
    assert "demo" in listing
    assert cli.main(["status", "--json"]) == 1
    assert "trireme status needs the package trireme.serving.status, which is not installed" in capsys.readouterr().err
