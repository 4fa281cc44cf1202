"""An Envoy that is started again when it ends or hangs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from trireme.errors import ServerError
from trireme.serving.envoy.endpoint import Endpoint, FrontDoor
from trireme.serving.envoy.process import EnvoyProcess
from trireme.serving.envoy.upstreams import GRPC_CLUSTER

_LOG = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
# Calls of 2 s each that it may leave unanswered.
_MISSES = 3
_LOG_LIMIT_BYTES = 20 * 1024**2


class KeptEnvoy:
    """One Envoy after the other, with the same door.

    Example:
        >>> envoy = KeptEnvoy(run_dir / "envoy", door)
        >>> envoy.start(endpoints)
        >>> envoy.keep()  # again and again
        >>> envoy.finish(deadline_seconds=30.0)
    """

    def __init__(self, directory: Path, door: FrontDoor) -> None:
        """Nothing is started yet."""
        self._directory = directory
        self._door = door
        self._endpoints: Sequence[Endpoint] = ()
        self._process: EnvoyProcess | None = None
        self._misses = 0
        self._next_look = 0.0

    def start(self, endpoints: Sequence[Endpoint]) -> None:
        """Raises ServerError if it does not listen."""
        self._endpoints = endpoints
        self._process = EnvoyProcess.start(self._directory, self._door, endpoints)
        self._misses = 0
        # Whoever changed them meanwhile wrote them for the one before.
        self._process.set_endpoints(self._endpoints)

    def keep(self) -> None:
        """Look at it about once a second; one that ended or hangs is replaced."""
        if self._process is None or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_SECONDS
        try:
            if not self._process.is_alive():
                _LOG.warning("envoy ended; starting it again")
                self.start(self._endpoints)
            elif self._hangs(self._process):
                _LOG.warning("envoy is frozen; starting another one")
                self._process.stop(deadline_seconds=0.5)
                self.start(self._endpoints)
            else:
                self._process.rotate_log(_LOG_LIMIT_BYTES)
        except ServerError as error:
            # The next look tries again.
            _LOG.warning("%s", error)

    def set_endpoints(self, endpoints: Sequence[Endpoint]) -> None:
        """These and no others from now on; requests in flight to the others are let finish."""
        self._endpoints = endpoints
        if self._process:
            self._process.set_endpoints(endpoints)

    def gives_requests_to(self) -> Mapping[str, bool]:
        """By the replica's name, whether it gets requests now; nothing where Envoy does not answer."""
        try:
            return self._process.healthy(GRPC_CLUSTER) if self._process else {}
        except ServerError:
            return {}

    def finish(self, deadline_seconds: float) -> None:
        """Let what is in flight be answered, then stop."""
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
        return self._misses >= _MISSES
