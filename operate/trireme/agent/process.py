"""An agent as seen by the one who started it."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from trireme.agent.report import AgentReport
from trireme.direct_http import open_direct
from trireme.documents import parse_json
from trireme.errors import ServerError
from trireme.processes.supervised import Child

_CALL_SECONDS = 2.0


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
    child: Child

    @classmethod
    def start(cls, flags: AgentFlags, log_path: Path, environment: Mapping[str, str]) -> AgentProcess:
        command = [sys.executable, "-m", "trireme.cli", "agent", *flags.arguments()]
        return cls(flags, Child.start(command, log_path, environment))

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
