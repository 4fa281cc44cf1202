"""An Envoy that is restarted when it exits or hangs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trireme.errors import ServerError
from trireme.serving.envoy.config_files import GRPC_CLUSTER
from trireme.serving.envoy.process import EnvoyProcess
from trireme.serving.envoy.proxy_config import ProxyConfig, ReplicaEndpoint

_LOG = logging.getLogger(__name__)

_CHECK_SECONDS = 1.0
# Calls of 2 s each without a response, after which Envoy counts as hanging.
_MAX_MISSES = 3
_LOG_LIMIT_BYTES = 20 * 1024**2


class SupervisedEnvoy:
    """A supervised Envoy; its configuration survives restarts.

    Example:
        >>> envoy = SupervisedEnvoy(run_dir / "envoy", proxy)
        >>> envoy.start(endpoints)
        >>> envoy.ensure_running()  # in a loop
        >>> envoy.finish(deadline_seconds=30.0)
    """

    def __init__(self, directory: Path, proxy: ProxyConfig) -> None:
        """Nothing is started yet."""
        self._directory = directory
        self._proxy = proxy
        self._endpoints: Sequence[ReplicaEndpoint] = ()
        self._process: EnvoyProcess | None = None
        self._misses = 0
        self._next_check = 0.0

    def start(self, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """Start Envoy; raises ServerError if it does not listen."""
        self._endpoints = endpoints
        self._process = EnvoyProcess.start(self._directory, self._proxy, endpoints)
        self._misses = 0
        # The endpoints may have changed during the start.
        self._process.set_endpoints(self._endpoints)

    def ensure_running(self) -> None:
        """Check Envoy about once a second, and restart it if it exited or hangs."""
        if self._process is None or time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + _CHECK_SECONDS
        try:
            if not self._process.is_alive():
                _LOG.warning("envoy exited; restarting it")
                self.start(self._endpoints)
            elif self._hangs(self._process):
                _LOG.warning("envoy is unresponsive; restarting it")
                self._process.stop(deadline_seconds=0.5)
                self.start(self._endpoints)
            else:
                self._process.rotate_log(_LOG_LIMIT_BYTES)
        except ServerError as error:
            # The next check retries.
            _LOG.warning("%s", error)

    def set_endpoints(self, endpoints: Sequence[ReplicaEndpoint]) -> None:
        """Set the endpoints to balance over; requests in flight to removed endpoints finish."""
        self._endpoints = endpoints
        if self._process:
            self._process.set_endpoints(endpoints)

    def replica_health(self) -> Mapping[str, bool]:
        """Return whether a replica receives requests, by name; empty if Envoy does not respond."""
        try:
            return self._process.healthy(GRPC_CLUSTER) if self._process else {}
        except ServerError:
            return {}

    def finish(self, deadline_seconds: float) -> None:
        """Drain, then stop."""
        if self._process and self._process.is_alive():
            self._process.finish(deadline_seconds)
        self._process = None

    def _hangs(self, process: EnvoyProcess) -> bool:
        try:
            process.healthy(GRPC_CLUSTER)
        except ServerError:
            self._misses += 1
        else:
            self._misses = 0
        return self._misses >= _MAX_MISSES
