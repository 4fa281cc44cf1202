"""Prometheus beside a served stack, where this machine has the program: ``apt-get install prometheus``.

Its configuration and rules are those of ``deploy/prometheus``, as in compose; only the files of targets differ, and
Prometheus reads these again whenever they change.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trireme.files import write_json_atomic
from trireme.processes.supervised import SupervisedProcess
from trireme.serving.run_state import ServingState

# A job without targets still has its file: Prometheus would warn of a missing one.
JOBS = ("triton", "agent", "envoy", "gateway")
_RESTART_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """One address (``host:port``) whose ``/metrics`` is read.

    Attributes:
        job: one of ``JOBS``.
        replica, zone: put on every series of it; empty for what belongs to no replica.
    """

    job: str
    address: str
    replica: str = ""
    zone: str = ""


def targets_of(state: ServingState) -> list[Target]:
    """Everything of a served stack that has metrics."""
    targets = []
    for replica in state.replicas:
        for job, address in (("triton", replica.metrics_address), ("agent", replica.agent_address)):
            targets.append(Target(job, address, replica.name, replica.zone))
    targets.append(Target("envoy", state.envoy_admin_address))
    targets.append(Target("gateway", state.gateway_address))
    return [target for target in targets if target.address]


def write_targets(directory: Path, targets: Sequence[Target]) -> None:
    """Write ``<directory>/<job>.json`` for every job, in the form of Prometheus' file_sd."""
    for job in JOBS:
        groups = [{"targets": [target.address], "labels": _labels(target)} for target in targets if target.job == job]
        write_json_atomic(directory / f"{job}.json", groups)


def _labels(target: Target) -> dict[str, str]:
    return {name: value for name, value in (("replica", target.replica), ("zone", target.zone)) if value}


def find_prometheus() -> Path | None:
    """The program, where this machine has one."""
    found = shutil.which("prometheus")
    return Path(found) if found else None


class Prometheus:
    """A supervised Prometheus; its series outlive it in ``directory``.

    Serving never waits for it: a failed start is logged and tried again later.

    Example:
        >>> prometheus = Prometheus(program, Path("deploy/prometheus"), run_dir / "prometheus", "127.0.0.1:9090")
        >>> prometheus.ensure_running(targets_of(state))  # in a loop
        >>> prometheus.stop()
    """

    def __init__(self, program: Path, configuration: Path, directory: Path, address: str) -> None:
        """Nothing is started yet.

        Args:
            configuration: the folder with ``prometheus.yml`` and ``rules/``.
            directory: for its own copy of these, targets, series and ``prometheus.log``.
            address: where it shall listen.
        """
        self.address = address
        self._directory = directory
        command = [
            # It shares the machine with the models.
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
        """Start it, unless it runs, and have it scrape exactly these; cheap where nothing has changed."""
        if targets != self._targets:
            write_targets(self._directory / "targets", targets)
            self._targets = targets
        self._process.ensure_running()

    def stop(self, deadline_seconds: float = 10.0) -> None:
        """Let it write its series to disk and end."""
        self._process.stop(deadline_seconds)
