"""What every verb of the command line shares: one sentence for an error, and an end at Ctrl-C."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from trireme import cli

from tests.deadlines import scaled

TRIREME = Path(sys.executable).with_name("trireme")
_IMPORT_A_VERB_FOREVER = """
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


def test_help_names_every_verb_and_ends_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for verb in ("serve", "ask", "export", "lint", "doctor", "publish", "bench", "load"):
        assert f"  {verb} " in shown


def test_wrong_usage_exits_2() -> None:
    done = subprocess.run([TRIREME, "serv"], capture_output=True, text=True, timeout=scaled(60), check=False)
    assert done.returncode == 2
    assert "No such command 'serv'" in done.stderr


def test_ctrl_c_while_a_verb_is_imported_ends_it_at_once_without_a_traceback() -> None:
    command = [sys.executable, "-c", _IMPORT_A_VERB_FOREVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "importing\n"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=scaled(60))
    assert running.returncode == -signal.SIGINT
    assert errors == ""


def test_verb_whose_packages_are_missing_says_so_and_leaves_the_others_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # None in sys.modules is how Python is told that a module cannot be found.
    monkeypatch.setitem(sys.modules, "trireme.serving.status", None)
    monkeypatch.delitem(sys.modules, "trireme.commands.status", raising=False)
    assert cli.main(["--help"]) == 0
    told = capsys.readouterr().out
    assert "Not available: needs trireme.serving.status" in told
    assert "demo" in told
    assert cli.main(["status", "--json"]) == 1
    assert "trireme status needs the package trireme.serving.status, which is not installed" in capsys.readouterr().err
