"""Prometheus for a served stack, if the program is installed: ``apt-get install prometheus``.

It uses the configuration and rules in ``deploy/prometheus``, like compose. Only the target files differ; Prometheus
reloads them whenever they change.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trireme.files import write_json_atomic
from trireme.processes.supervised import SupervisedProcess
from trireme.serving.run_state import ServingState

# A job without targets still gets a file, because Prometheus warns about a missing one.
JOBS = ("triton", "agent", "envoy", "gateway")
_RESTART_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """One address (``host:port``) with a ``/metrics`` page.

    Attributes:
        job: one of ``JOBS``.
        replica, zone: labels of all its series; empty if it belongs to no replica.
    """

    job: str
    address: str
    replica: str = ""
    zone: str = ""


def targets_of(state: ServingState) -> list[Target]:
    """All targets of a served stack."""
    targets = []
    for replica in state.replicas:
        for job, address in (("triton", replica.metrics_address), ("agent", replica.agent_address)):
            targets.append(Target(job, address, replica.name, replica.zone))
    targets.append(Target("envoy", state.envoy_admin_address))
    targets.append(Target("gateway", state.gateway_address))
    return [target for target in targets if target.address]


def write_targets(directory: Path, targets: Sequence[Target]) -> None:
    """Write ``<directory>/<job>.json`` for every job, in Prometheus' file_sd format."""
    for job in JOBS:
        groups = [{"targets": [target.address], "labels": _labels(target)} for target in targets if target.job == job]
        write_json_atomic(directory / f"{job}.json", groups)


def _labels(target: Target) -> dict[str, str]:
    return {name: value for name, value in (("replica", target.replica), ("zone", target.zone)) if value}


def find_prometheus() -> Path | None:
    """The program, if installed."""
    found = shutil.which("prometheus")
    return Path(found) if found else None


class Prometheus:
    """A supervised Prometheus; its series in ``directory`` survive restarts.

    Serving never waits for it: a failed start is logged and retried later.

    Example:
        >>> prometheus = Prometheus(program, Path("deploy/prometheus"), run_dir / "prometheus", "127.0.0.1:9090")
        >>> prometheus.ensure_running(targets_of(state))  # in a loop
        >>> prometheus.stop()
    """

    def __init__(self, program: Path, configuration: Path, directory: Path, address: str) -> None:
        """Nothing is started yet.

        Args:
            configuration: the directory with ``prometheus.yml`` and ``rules/``.
            directory: for copies of these, targets, series and ``prometheus.log``.
            address: ``host:port`` to listen on.
        """
        self.address = address
        self._directory = directory
        command = [
            # Prometheus shares the cores with the models.
            *("env", "GOMAXPROCS=1", str(program)),
            f"--config.file={directory / 'prometheus.yml'}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--storage.tsdb.retention.time=7d",
            "--storage.tsdb.retention.size=512MB",
            f"--web.listen-address={address}",
            "--log.format=json",
            "--log.level=warn",
        ]
        self._process = SupervisedProcess("prometheus", command, directory / "prometheus.log", _RESTART_SECONDS)
        self._targets: Sequence[Target] | None = None
        directory.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(configuration / "prometheus.yml", directory / "prometheus.yml")
        shutil.rmtree(directory / "rules", ignore_errors=True)
        shutil.copytree(configuration / "rules", directory / "rules")

    def ensure_running(self, targets: Sequence[Target]) -> None:
        """Start Prometheus unless it is running, and set its targets; cheap if nothing changed."""
        if targets != self._targets:
            write_targets(self._directory / "targets", targets)
            self._targets = targets
        self._process.ensure_running()

    def stop(self, deadline_seconds: float = 10.0) -> None:
        """Stop Prometheus, giving it time to write its series to disk."""
        self._process.stop(deadline_seconds)
