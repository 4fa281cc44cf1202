"""The machine under a load test: its facts, and the resource usage of processes."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

_PACKAGES = (
    "trireme",
    "numpy",
    "onnxruntime",
    "tokenizers",
    "tritonclient",
    "grpcio",
    "fastapi",
    "uvicorn",
    "uvloop",
    "locust",
)


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """One machine at the start of a run.

    Attributes:
        cores: available to this process.
        load_average: of the last minute before the run.
        versions: installed packages that affect the numbers, and the commit of the checkout.
    """

    cpu: str
    cores: int
    memory_gib: float
    system: str
    python: str
    load_average: float
    versions: dict[str, str]

    @classmethod
    def read(cls) -> MachineFacts:
        return cls(
            cpu=_cpu_model(),
            cores=len(os.sched_getaffinity(0)),
            memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
            system=f"{platform.system()} {platform.release()}",
            python=platform.python_version(),
            load_average=round(os.getloadavg()[0], 2),
            versions=_versions(),
        )

    def sentence(self) -> str:
        """One line for the header of a report."""
        versions = ", ".join(f"{name} {number}" for name, number in self.versions.items())
        return (
            f"{self.cores} cores ({self.cpu}), {self.memory_gib} GiB, {self.system}, Python {self.python}; "
            f"load average {self.load_average} before the run; {versions}"
        )


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"],
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    if commit.returncode == 0:
        found["commit"] = commit.stdout.strip()
    return found


@dataclass(frozen=True, slots=True)
class ProcessUsage:
    """Usage of one process and all its descendants at one moment.

    Attributes:
        cpu_seconds: user and system time since the start of each.
        rss_mib: resident memory; shared pages are counted in each process.
    """

    cpu_seconds: float
    rss_mib: float


def usage(pid: int) -> ProcessUsage:
    """The usage of ``pid`` and its descendants.

    Raises:
        psutil.NoSuchProcess: ``pid`` is gone.
    """
    root = psutil.Process(pid)
    cpu_seconds = rss = 0.0
    for process in (root, *root.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            cpu_seconds += times.user + times.system
            rss += process.memory_info().rss
    return ProcessUsage(cpu_seconds, rss / 2**20)


def machine_cpu_seconds() -> float:
    """CPU time of all processes of the machine since its start."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system + times.irq + times.softirq)
