from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from trireme.serving.prometheus import JOBS, Prometheus, Target, targets_of, write_targets
from trireme.serving.run_state import Phase, ReplicaState, ServingState

from tests.deadlines import scaled

REPLICAS = tuple(
    ReplicaState(f"r{n}", zone, Phase.SERVING, f"h:{n}1", f"h:{n}2", f"h:{n}3", f"h:{n}4")
    for n, zone in enumerate("ab")
)
STATE = ServingState(1, 0.0, Phase.SERVING, "h:1", "h:2", envoy_admin_address="h:9", replicas=REPLICAS)


@pytest.fixture
def configuration(tmp_path: Path) -> Path:
    folder = tmp_path / "configuration"
    (folder / "rules").mkdir(parents=True)
    (folder / "prometheus.yml").write_text("x")
    (folder / "rules" / "a.yml").write_text("y")
    return folder


def test_every_replica_has_two_targets_with_its_name_and_zone() -> None:
    assert targets_of(STATE) == [
        Target("triton", "h:03", "r0", "a"),
        Target("agent", "h:04", "r0", "a"),
        Target("triton", "h:13", "r1", "b"),
        Target("agent", "h:14", "r1", "b"),
        Target("envoy", "h:9"),
    ]


def test_every_job_has_a_target_file_even_without_targets(tmp_path: Path) -> None:
    write_targets(tmp_path, [Target("triton", "h:1", "r0", "a"), Target("envoy", "h:2")])
    written = {job: json.loads((tmp_path / f"{job}.json").read_text()) for job in JOBS}
    assert written == {
        "triton": [{"targets": ["h:1"], "labels": {"replica": "r0", "zone": "a"}}],
        "envoy": [{"targets": ["h:2"], "labels": {}}],
        "agent": [],
        "gateway": [],
    }


def test_an_immediate_exit_is_logged_and_not_restarted_in_a_tight_loop(
    tmp_path: Path, configuration: Path, caplog: pytest.LogCaptureFixture
) -> None:
    starts = tmp_path / "starts"
    program = tmp_path / "prometheus"
    program.write_text(f"#!/bin/sh\necho once >> {starts}\necho 'no space left'\nexit 1\n")
    program.chmod(0o755)
    prometheus = Prometheus(program, configuration, tmp_path / "run", "127.0.0.1:9")
    deadline = time.monotonic() + scaled(30)
    while "no space left" not in caplog.text:
        assert time.monotonic() < deadline
        prometheus.ensure_running(targets_of(STATE))
        time.sleep(0.01)
    for _ in range(3):
        prometheus.ensure_running(targets_of(STATE))
    prometheus.stop()
    assert starts.read_text() == "once\n"


def test_rules_of_an_earlier_release_are_removed(tmp_path: Path, configuration: Path) -> None:
    (tmp_path / "run" / "rules").mkdir(parents=True)
    (tmp_path / "run" / "rules" / "old.yml").touch()
    Prometheus(tmp_path / "none", configuration, tmp_path / "run", "127.0.0.1:9")
    assert [path.name for path in (tmp_path / "run" / "rules").iterdir()] == ["a.yml"]
