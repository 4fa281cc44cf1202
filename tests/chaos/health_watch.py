"""The health of replicas over time, as reported by Envoy."""

from __future__ import annotations

import json
import threading
import time
import urllib.request
from collections.abc import Mapping

from trireme.serving.envoy.config_files import GRPC_CLUSTER

from tests.deadlines import scaled


class HealthWatch:
    """Records when Envoy removes a replica from load balancing and when it adds it again.

    Attributes:
        healthy: the last known health by replica.
    """

    def __init__(self, admin_address: str) -> None:
        self.healthy: Mapping[str, bool] = {}
        self._admin_address = admin_address
        self._changes: list[tuple[float, str, bool]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="health-watch")

    def __enter__(self) -> HealthWatch:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def left_after(self, begin: float) -> dict[str, float]:
        """Seconds from ``begin`` (``time.monotonic()``) until a replica received no more requests, by replica."""
        left: dict[str, float] = {}
        for at, name, healthy in self._changes:
            if at >= begin and not healthy:
                left.setdefault(name, round(at - begin, 2))
        return left

    def back_after(self, begin: float) -> dict[str, float]:
        """Seconds from ``begin`` until a removed replica received requests again permanently, by replica."""
        left = self.left_after(begin)
        taken = [(round(at - begin, 2), name) for at, name, healthy in self._changes if healthy and name in left]
        return {name: after for after, name in taken if after > left[name]}

    def requests(self) -> Mapping[str, int]:
        """Number of requests sent to each replica so far."""
        return {
            host["hostname"]: next(int(stat.get("value", 0)) for stat in host["stats"] if stat["name"] == "rq_total")
            for host in self._hosts()
        }

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            try:
                self._look()
            except (OSError, ValueError):
                # Envoy itself was killed.
                self.healthy = {}

    def _look(self) -> None:
        now = time.monotonic()
        healthy = {host["hostname"]: set(host["health_status"]) == {"eds_health_status"} for host in self._hosts()}
        for name in healthy.keys() | self.healthy.keys():
            if healthy.get(name, False) != self.healthy.get(name, False):
                self._changes.append((now, name, healthy.get(name, False)))
        self.healthy = healthy

    def _hosts(self) -> list[dict[str, object]]:
        with urllib.request.urlopen(
            f"http://{self._admin_address}/clusters?format=json", timeout=scaled(2.0)
        ) as answered:
            document = json.load(answered)
        return [
            host
            # Missing during startup.
            for cluster in document.get("cluster_statuses", [])
            if cluster["name"] == GRPC_CLUSTER
            for host in cluster.get("host_statuses", [])
        ]
