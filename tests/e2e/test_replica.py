"""A replica whose server exits repeatedly."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
from trireme.processes.admin_key import ensure_admin_key
from trireme.processes.ports import free_ports
from trireme.processes.runtime import EmbeddedRuntime
from trireme.processes.server import ServerFlags
from trireme.repository.folders import ModelRepository
from trireme.serving.replica import Replica, ReplicaPlan, RestartPolicy
from trireme.serving.run_state import Phase
from trireme.settings import Settings

from tests.e2e.serving import MODELS, wait_until


def test_restarts_of_a_replica_are_unlimited(tmp_path: Path) -> None:
    grpc_port, http_port, metrics_port = free_ports(3)
    admin_key_path = tmp_path / "admin.key"
    plan = ReplicaPlan(
        name="r0",
        zone="a",
        flags=ServerFlags(
            MODELS,
            grpc_port=grpc_port,
            http_port=http_port,
            metrics_port=metrics_port,
            admin_key=ensure_admin_key(admin_key_path),
        ),
        directory=tmp_path / "r0",
        repository=ModelRepository(MODELS),
        runtime=EmbeddedRuntime.find(Settings.from_environment()),
        admin_key_path=admin_key_path,
        environment={"TRIREME_REPOSITORY_DIR": str(MODELS)},
    )
    policy = RestartPolicy(first_backoff_seconds=0.1, max_backoff_seconds=0.2)
    replica = Replica(plan, policy, changed=lambda: None, start_turn=contextlib.nullcontext)
    replica.start()
    ended: set[int] = set()

    def end_the_next_server() -> bool:
        pid = replica.state.server_pid
        if pid is not None and pid not in ended:
            psutil.Process(pid).kill()
            ended.add(pid)
        return len(ended) > 5

    try:
        wait_until(end_the_next_server, "more servers exited than a restart limit would allow")
        wait_until(lambda: replica.state.phase is Phase.SERVING, "it serves")
        assert replica.state.server_pid not in ended
        assert replica.state.restarts == len(ended)
        assert "SIGKILL" in replica.state.last_fault
    finally:
        replica.stop()
    assert (replica.state.server_pid, replica.state.agent_pid) == (None, None)
