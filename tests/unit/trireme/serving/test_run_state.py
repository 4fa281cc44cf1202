from __future__ import annotations

import os
from pathlib import Path

import pytest
from trireme.errors import ServerError
from trireme.processes.admin_key import ensure_admin_key
from trireme.serving.run_state import FleetCommand, Phase, ReplicaState, RunDirectory, ServingState


def state(**changes: object) -> ServingState:
    fields: dict[str, object] = {
        "pid": 1, "started_at": 2.0, "phase": Phase.SERVING,
        "grpc_address": "127.0.0.1:1", "http_address": "127.0.0.1:2",
    }  # fmt: skip
    return ServingState(**{**fields, **changes})  # type: ignore[arg-type]


def replica(**changes: object) -> ReplicaState:
    fields: dict[str, object] = {
        "name": "r0", "zone": "a", "phase": Phase.SERVING, "grpc_address": "127.0.0.1:3",
        "http_address": "127.0.0.1:4", "metrics_address": "127.0.0.1:5", "agent_address": "127.0.0.1:6",
    }  # fmt: skip
    return ReplicaState(**{**fields, **changes})  # type: ignore[arg-type]


def test_state_survives_a_round_trip(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    replicas = (replica(problems={"a": (), "b": ("wrong",)}, server_pid=7), replica(name="r1", zone="b"))
    written = state(replicas=replicas, left_out={"c": "not exported"})
    directory.write(written)
    assert directory.read() == written


def test_state_of_another_release_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "serving.json").write_text('{"pid": 1, "unheard_of": 2}')
    assert RunDirectory(tmp_path).read() is None


def test_problem_sentences_name_the_models_with_problems() -> None:
    problems = {"b": ("wrong", "more"), "a": (), "c": ("slow",)}
    assert replica(problems=problems).problem_sentences() == ["b: wrong", "c: slow"]


def test_a_command_survives_a_round_trip_and_is_removed_with_the_state(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    assert directory.last_command() is None
    directory.submit(FleetCommand(3, replicas=2, restart=True))
    assert directory.last_command() == FleetCommand(3, replicas=2, restart=True)
    directory.clear()
    assert directory.last_command() is None


def test_state_left_by_a_dead_serve_is_not_running(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.write(state())
    with pytest.raises(ServerError, match="nothing is being served"):
        directory.running()
    with directory.only_one():
        assert directory.running() == state()


def test_a_second_holder_is_rejected_with_the_pid_of_the_first(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    with directory.only_one(), pytest.raises(ServerError, match=f"pid {os.getpid()}"), directory.only_one():
        pass
    with directory.only_one():
        pass


def test_admin_key_is_created_once_and_rejected_if_readable_by_others(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    key = ensure_admin_key(path)
    assert len(key) >= 32
    assert ensure_admin_key(path) == key
    path.chmod(0o644)
    with pytest.raises(ServerError, match="is readable by other users"):
        ensure_admin_key(path)
