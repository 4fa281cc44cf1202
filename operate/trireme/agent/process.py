"""An agent as seen by the process that started it: its flags, its process and what it reports."""

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
    """Where a replica stands, as ``docs/availability.md`` draws it.

    Attributes:
        STARTING: no server answers, or its golden samples are being asked for the first time.
        READY: a model is there for every route, or for callers that ask models directly. ``/readyz`` is 200 in this
            state alone. Models may be out, or answer wrongly: an alert's business.
        UNREADY: no model is there, or a route has no variant, or the server has just missed a call.
        DEAD: the server is frozen; only a new one helps. ``/livez`` is 503 in this state alone.
        DRAINING: it was asked to go; it takes no new requests and never becomes ready again.
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
        problems: by model, what is wrong with it; empty where its last answers to golden samples were right.
        out: models that callers cannot ask: not loaded, failing, or being healed.
        heals: models that were loaded again since the agent started. last_heal: why the last time.
        fault: why the state is UNREADY or DEAD; empty in all others.
        error: what the last look at the server failed with, and nothing is known since; empty where it went well.
        server_pid: of the server that this is said of; None where its processes cannot be seen.
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
    """Where an agent looks and listens; addresses are ``host:port``.

    Attributes:
        server_pid_path: a file with the server's pid, where its processes can be seen by the agent.
    """

    replica: str
    zone: str
    grpc_address: str
    metrics_address: str
    listen: str
    admin_key_path: Path
    server_pid_path: Path | None = None

    def arguments(self) -> list[str]:
        """The command line of ``trireme agent``."""
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
    """A running agent. It ends when the thread that started it does."""

    flags: AgentFlags
    child: ChildProcess

    @classmethod
    def start(cls, flags: AgentFlags, log_path: Path, environment: Mapping[str, str]) -> AgentProcess:
        command = [sys.executable, "-m", "trireme.cli", "agent", *flags.arguments()]
        return cls(flags, ChildProcess.start(command, log_path, environment))

    def report(self) -> AgentReport | None:
        """What it says now; None where it does not answer."""
        try:
            return parse_json(AgentReport, self._call("GET", "/readyz"))
        except (ServerError, ValueError):
            return None

    def drain(self) -> None:
        """Have its replica get no new requests.

        Raises:
            ServerError: it does not answer.
        """
        self._call("POST", "/drain")

    def _call(self, method: str, path: str) -> bytes:
        request = urllib.request.Request(f"http://{self.flags.listen}{path}", method=method)
        try:
            with open_direct(request, _CALL_SECONDS) as answer:
                return answer.read()
        except urllib.error.HTTPError as error:
            # 503 has a body too.
            return error.read()
        except (urllib.error.URLError, OSError) as error:
            raise ServerError(f"the agent of {self.flags.replica} does not answer: {error}") from None
