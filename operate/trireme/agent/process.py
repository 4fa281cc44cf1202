"""The agent for the process that starts it: flags, process, report."""

from __future__ import annotations

import enum
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trireme.documents import parse_json
from trireme.errors import ServerError
from trireme.processes.ports import open_direct
from trireme.processes.supervised import ChildProcess

_CALL_SECONDS = 2.0


class AgentState(str, enum.Enum):
    """State of a replica; ``docs/availability.md`` has a diagram.

    Attributes:
        STARTING: no server responds, or its golden samples are being sent for the first time.
        READY: every route has a variant, and at least one model is ready. ``/readyz`` is 200 only in this state. Models
            may be out of service or respond incorrectly, which is reported by alerts.
        UNREADY: no model is ready, a route has no variant, or the server just missed a call.
        DEAD: the server is frozen and must be restarted. ``/livez`` is 503 only in this state.
        DRAINING: the replica is shutting down; it accepts no new requests and never becomes ready again.
    """

    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    DEAD = "dead"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class AgentReport:
    """The body of ``/readyz`` and ``/livez``.

    Attributes:
        problems: by model; empty if its last responses to golden samples were correct.
        out: models out of service: not loaded, failing, or being healed.
        heals: number of models reloaded since the agent started.
        last_heal: the reason for the last heal.
        fault: the reason for the state UNREADY or DEAD; empty otherwise.
        error: why the last check of the server failed, so that the report may be outdated; empty if it succeeded.
        server_pid: of the server that the report is about; None if its processes are not visible.
    """

    state: AgentState
    problems: Mapping[str, tuple[str, ...]]
    out: tuple[str, ...]
    heals: int = 0
    last_heal: str = ""
    fault: str = ""
    error: str = ""
    server_pid: int | None = None


@dataclass(frozen=True, slots=True)
class AgentFlags:
    """Flags of ``trireme agent``; addresses are ``host:port``.

    Attributes:
        server_pid_path: a file with the server's pid, if its processes are visible to the agent.
    """

    replica: str
    zone: str
    grpc_address: str
    metrics_address: str
    listen: str
    admin_key_path: Path
    server_pid_path: Path | None = None

    def arguments(self) -> list[str]:
        """The command-line arguments."""
        return [
            f"--replica={self.replica}",
            f"--zone={self.zone}",
            f"--grpc-address={self.grpc_address}",
            f"--metrics-address={self.metrics_address}",
            f"--listen={self.listen}",
            f"--admin-key-file={self.admin_key_path}",
            *([f"--server-pid-file={self.server_pid_path}"] if self.server_pid_path else []),
        ]


@dataclass(slots=True)
class AgentProcess:
    """A running agent. It exits when the thread that started it ends."""

    flags: AgentFlags
    child: ChildProcess

    @classmethod
    def start(cls, flags: AgentFlags, log_path: Path, environment: Mapping[str, str]) -> AgentProcess:
        command = [sys.executable, "-m", "trireme.cli", "agent", *flags.arguments()]
        return cls(flags, ChildProcess.start(command, log_path, environment))

    def report(self) -> AgentReport | None:
        """The current report; None if the agent does not respond."""
        try:
            return parse_json(AgentReport, self._call("GET", "/readyz"))
        except (ServerError, ValueError):
            return None

    def drain(self) -> None:
        """Make the replica not ready, so that it receives no new requests.

        Raises:
            ServerError: the agent does not respond.
        """
        self._call("POST", "/drain")

    def _call(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(f"http://{self.flags.listen}{path}", method=method)
        try:
            with open_direct(request, _CALL_SECONDS) as response:
                return response.read()
        except urllib.error.HTTPError as error:
            # A 503 has the same body.
            return error.read()
        except (urllib.error.URLError, OSError) as error:
            raise ServerError(f"agent of replica {self.flags.replica}: no response: {error}") from None
