"""A smaller run of the proof that users can run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.deadlines import scaled
from tests.e2e.serving import TRIREME


@pytest.mark.slow
def test_no_request_is_lost_while_good_and_bad_versions_are_released(tmp_path: Path) -> None:
    certificate_path = tmp_path / "certificate.json"
    command = [TRIREME, "prove", "rollout", "--rps=20", "--cycles=4", "--output", certificate_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=scaled(600.0), check=False)
    certificate = json.loads(certificate_path.read_text())
    assert set(certificate["failures"].values()) == {0}, certificate["failure_texts"]
    assert min(certificate["requests"].values()) > 100
    endings = {cycle["kind"]: (cycle["load_seconds"] is not None, cycle["canary"]) for cycle in certificate["cycles"]}
    assert endings["slow"] == (True, "rejected")
    assert endings["wrong"] == endings["crashing"] == (False, "-")
    assert (done.returncode == 0) == certificate["passed"] == (not certificate["problems"])
    assert certificate["triton_version"]
    assert len(certificate["versions"]) == 2
