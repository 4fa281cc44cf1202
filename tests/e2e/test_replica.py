"""When a replica is given up."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil
from trireme.admin_key import ensure_admin_key
from trireme.ports import free_ports
from trireme.replica import Replica, ReplicaPlan, RestartPolicy
from trireme.repository import ModelRepository
from trireme.run_state import Phase
from trireme.runtime import EmbeddedRuntime
from trireme.server import ServerFlags
from trireme.settings import Settings

from tests.e2e.serving import MODELS, wait_until


def test_replica_is_given_up_after_its_crashes_with_the_reason(tmp_path: Path) -> None:
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
    policy = RestartPolicy(crashes=1, first_backoff_seconds=0.1)
    replica = Replica(plan, policy, changed=lambda: None, start_turn=contextlib.nullcontext())
    replica.start()
    try:
        for restarts in (0, 1):
            wait_until(
                lambda wanted=restarts: replica.state.phase is Phase.SERVING and replica.state.restarts == wanted,
                "it was serving",
            )
            psutil.Process(replica.state.server_pid).kill()
        wait_until(lambda: replica.failure is not None, "it was given up")
        assert "gave up after 1 restarts in 300 s" in str(replica.failure)
        assert "SIGKILL" in str(replica.failure)
    finally:
        replica.stop()
    assert (replica.state.server_pid, replica.state.agent_pid) == (None, None)
