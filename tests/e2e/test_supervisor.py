"""When the supervisor gives up."""

from __future__ import annotations

import threading
from pathlib import Path

import psutil
import pytest
from trireme.errors import ServerError
from trireme.ports import free_ports
from trireme.repository import ModelRepository
from trireme.run_state import Phase, RunDirectory
from trireme.runtime import EmbeddedRuntime
from trireme.server import ServerFlags
from trireme.settings import Settings
from trireme.supervisor import RestartPolicy, Supervisor

from tests.e2e.serving import MODELS, wait_until


def test_supervisor_gives_up_after_its_crashes_with_the_reason(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    grpc_port, http_port, metrics_port = free_ports(3)
    supervisor = Supervisor(
        ServerFlags(MODELS, grpc_port=grpc_port, http_port=http_port, metrics_port=metrics_port),
        ModelRepository(MODELS),
        EmbeddedRuntime.find(Settings.from_environment()),
        directory,
        RestartPolicy(crashes=1, first_backoff_seconds=0.1),
    )

    def crash(restarts: int) -> None:
        def is_back() -> bool:
            state = directory.read()
            return state is not None and state.phase is Phase.SERVING and state.restarts == restarts

        wait_until(is_back, "it was serving")
        state = directory.read()
        assert state is not None
        psutil.Process(state.server_pid).kill()

    def crash_twice() -> None:
        crash(0)
        crash(1)

    crashing = threading.Thread(target=crash_twice)
    crashing.start()
    with pytest.raises(ServerError, match=r"gave up after 1 restarts in 300 s: .*SIGKILL"):
        supervisor.run(announce=lambda _: None)
    crashing.join()
    assert directory.read() is None
