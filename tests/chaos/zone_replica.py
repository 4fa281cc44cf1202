"""A replica in a network namespace: tritonserver and agent, until standard input ends.

python -m tests.chaos.zone_replica NAME ADDRESS DIRECTORY
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from trireme.agent.process import AgentFlags, AgentProcess
from trireme.processes.admin_key import ensure_admin_key
from trireme.processes.ports import LOOPBACK
from trireme.processes.server import ServerFlags, TritonServer
from trireme.repository.folders import ModelRepository
from trireme.repository.loading import plan_loading
from trireme.settings import Settings

# All ports are free in a new network namespace.
GRPC_PORT, HTTP_PORT, METRICS_PORT, AGENT_PORT = 8001, 8000, 8002, 8003


class _OpenFlags(ServerFlags):
    """Listens on all addresses, like in a container."""

    def arguments(self, backend_dir: Path, cache_dir: Path, region_prefix: str) -> list[str]:
        arguments = super().arguments(backend_dir, cache_dir, region_prefix)
        return [argument.replace(f"-address={LOOPBACK}", "-address=0.0.0.0") for argument in arguments]


def main(name: str, address: str, directory: Path) -> None:
    key = ensure_admin_key(directory / "admin.key")
    repository = ModelRepository(Settings.from_environment().repository_dir)
    flags = _OpenFlags(
        repository.path,
        load_models=plan_loading(repository).models,
        grpc_port=GRPC_PORT,
        http_port=HTTP_PORT,
        metrics_port=METRICS_PORT,
        admin_key=key,
    )
    with TritonServer.start(flags, directory=directory / "server") as server:
        (directory / "server.pid").write_text(str(server.pid))
        agent = AgentProcess.start(
            AgentFlags(
                name,
                name,
                f"{LOOPBACK}:{GRPC_PORT}",
                f"{LOOPBACK}:{METRICS_PORT}",
                f"{address}:{AGENT_PORT}",
                directory / "admin.key",
                directory / "server.pid",
            ),
            directory / "agent.log",
            dict(os.environ),
        )
        sys.stdin.read()
        # There are no requests to drain, and a cut connection would delay a graceful stop.
        agent.child.kill()
        server.kill()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
