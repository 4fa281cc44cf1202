"""Set up a machine: Python environment, tritonserver, libpython. Run by ``make``; uses only the standard library.

A step is skipped if its result exists. Results are completed by one rename, or by a stamp written last, so that a later
run never mistakes the result of an interrupted one (Ctrl-C, kill -9, full disk) for complete.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes.util
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
STATE = PROJECT / ".trireme"
VENV = PROJECT / ".venv"
STAMP = VENV / "set-up.json"
CONSTRAINTS = PROJECT / "constraints.txt"
TRITONSERVER = PROJECT / "tools" / "tritonserver.txt"
RUNTIME = STATE / "runtime"
DEBIAN_FILES = RUNTIME / "debian"
VLLM = STATE / "vllm"
VLLM_STAMP = VLLM / "set-up.json"
VLLM_PACKAGES = PROJECT / "tools" / "vllm.txt"
# PyPI's torch for Linux is the CUDA build; PyTorch's own index has the CPU build.
TORCH_FOR_CPU = "https://download.pytorch.org/whl/cpu"

SUPPORTED = ((3, 10), (3, 11), (3, 12))
NEEDED_DISK_BYTES = 3 * 1024**3
VLLM_DISK_BYTES = 5 * 1024**3
PIP_DEADLINE_SECONDS = 1800
# Messages of pip and apt for an unreachable server; their final message may be misleading.
_NO_NETWORK = ("NewConnectionError", "ConnectTimeoutError", "NameResolutionError", "Temporary failure", "ProxyError")


class SetUpError(Exception):
    """The message says what is missing and the command that fixes it."""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="make setup", description=__doc__)
    parser.add_argument(
        "--extra", action="append", default=[], help="install this optional dependency group of pyproject.toml"
    )
    parser.add_argument("--vllm", action="store_true", help="also install vLLM's environment, which is 2.5 GB")
    parser.add_argument(
        "--perf-analyzer", action="store_true", help="also install the library that perf_analyzer links"
    )
    arguments = parser.parse_args(argv)
    extras = sorted(set(arguments.extra))
    try:
        _use_supported_python(argv)
        with _set_up_lock():
            _check_machine()
            _step("Python environment", lambda: _python_environment(extras))
            _step("libpython", _libpython)
            _step("tritonserver", _tritonserver)
            if arguments.vllm:
                _step("vLLM", _vllm)
            if arguments.perf_analyzer:
                _step("libb64", _libb64)
    except SetUpError as error:
        print(f"set-up: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"set-up: {error}; completed steps are kept, fix it and run the same command again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nset-up: interrupted; run the same command again to resume", file=sys.stderr)
        return 130
    return 0


def _use_supported_python(argv: Sequence[str]) -> None:
    """Continue with a supported interpreter: this one, otherwise the newest supported one on PATH."""
    if sys.version_info[:2] in SUPPORTED:
        return
    for major, minor in reversed(SUPPORTED):
        other = shutil.which(f"python{major}.{minor}")
        # A shim on PATH for a version that is not installed exits with an error.
        if other and subprocess.run([other, "--version"], capture_output=True, check=False).returncode == 0:
            os.execv(other, [other, __file__, *argv])
    raise SetUpError(
        f"Python {platform.python_version()} is not supported; "
        "install 3.10, 3.11 or 3.12, for which the server has stubs, and run: make PYTHON=python3.12"
    )


@contextlib.contextmanager
def _set_up_lock() -> Iterator[None]:
    STATE.mkdir(exist_ok=True)
    with (STATE / "set-up.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("set-up: waiting for another set-up to finish", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check_machine() -> None:
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SetUpError(
            f"the tritonserver wheel is for Linux on x86_64, not for {platform.system()} on {platform.machine()}; "
            "use docker compose up instead"
        )
    # An existing environment needs no further space.
    if not STAMP.exists():
        _require_disk(NEEDED_DISK_BYTES)


def _require_disk(needed_bytes: int) -> None:
    free = shutil.disk_usage(STATE).free
    if free < needed_bytes:
        raise SetUpError(
            f"{free / 1024**3:.1f} GiB are free at {STATE}, but {needed_bytes / 1024**3:.0f} GiB are needed; "
            "free some space"
        )


def _step(name: str, work: Callable[[], str | None]) -> None:
    started = time.monotonic()
    result = work()
    if result:
        print(f"set-up: {name}: {result} ({time.monotonic() - started:.0f} s)", flush=True)


# --- Python environment ---------------------------------------------------------------------------------------------


def environment_key() -> str:
    """A hash of the environment's inputs; an installation with another key is updated."""
    files = (CONSTRAINTS, PROJECT / "pyproject.toml", PROJECT / "client/pyproject.toml")
    inputs = [path.read_bytes() for path in files] + [f"{sys.version_info[:2]} {PROJECT}".encode()]
    return hashlib.sha256(b"".join(inputs)).hexdigest()


def _python_environment(extras: list[str]) -> str | None:
    key = environment_key()
    stamp = _read_stamp()
    if stamp.get("key") == key and set(extras) <= set(stamp.get("extras", [])):
        return None
    # Extras of earlier runs are kept: make serve after make test must not remove the test tools.
    extras = sorted({*extras, *stamp.get("extras", [])})
    STAMP.unlink(missing_ok=True)
    if not stamp:
        # No stamp: a fresh checkout, or an interrupted installation.
        shutil.rmtree(VENV, ignore_errors=True)
        _make_venv()
    requirement = "." + (f"[{','.join(extras)}]" if extras else "")
    print(f"set-up: Python environment: installing {requirement} with constraints.txt", flush=True)
    if "export" in extras:
        _pip("install", "--extra-index-url", TORCH_FOR_CPU, "torch")
    _pip("install", "--editable", "./client", "--editable", requirement)
    STAMP.write_text(json.dumps({"key": key, "extras": extras}))
    return "installed"


def _read_stamp(stamp: Path = STAMP) -> dict[str, Any]:
    try:
        loaded = json.loads(stamp.read_text())
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _make_venv() -> None:
    with_pip = _importable("ensurepip")
    result = subprocess.run(
        [sys.executable, "-m", "venv", *([] if with_pip else ["--without-pip"]), str(VENV)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if result.returncode:
        raise SetUpError(f"python -m venv failed: {(result.stderr or result.stdout).strip().splitlines()[-1:]}")
    if not with_pip:
        # Debian's and Ubuntu's python3 lacks pip; its wheel is in a package that can be unpacked without root.
        _fetch_debian_package("python3-pip-whl")
        wheel = next((DEBIAN_FILES / "usr/share/python-wheels").glob("pip-*.whl"))
        _run([str(VENV / "bin/python"), f"{wheel}/pip", "install", "--no-index", str(wheel)], "pip")


def _importable(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


def _pip(*arguments: str) -> None:
    environment = {**os.environ, "PIP_CONSTRAINT": str(CONSTRAINTS), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = [str(VENV / "bin/python"), "-m", "pip", arguments[0], "--progress-bar", "off", *arguments[1:]]
    _run(command, "pip", environment)


def _run(command: list[str], tool: str, environment: dict[str, str] | None = None) -> None:
    """Run ``command``, print its downloads and installations, and report a failure in one line."""
    with subprocess.Popen(
        command, cwd=PROJECT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        lines: list[str] = []
        deadline = time.monotonic() + PIP_DEADLINE_SECONDS
        for line in process.stdout:
            lines.append(line.strip())
            if line.lstrip().startswith(("Downloading", "Installing collected")):
                print(f"  {line.strip()[:110]}", flush=True)
            if time.monotonic() > deadline:
                process.kill()
                raise SetUpError(f"{tool} took over {PIP_DEADLINE_SECONDS} s; check the network and run it again")
    if process.returncode:
        if any(sign in line for line in lines for sign in _NO_NETWORK):
            raise SetUpError(
                f"{tool} cannot reach a package index; check the network and its settings, then run it again"
            )
        reason = next((line for line in lines if line.startswith(("ERROR", "E:"))), lines[-1] if lines else "no output")
        raise SetUpError(f"{tool} failed: {reason}; check the network and the disk, then run the same command again")


# --- vLLM -----------------------------------------------------------------------------------------------------------


def _vllm() -> str | None:
    """Create vLLM's own environment: vLLM pins other versions of our dependencies, and is an optional 2.5 GB.

    It has the same Python version, because the server's stub is linked to one Python and runs both environments.
    """
    key = hashlib.sha256(VLLM_PACKAGES.read_bytes() + f"{sys.version_info[:2]} {PROJECT}".encode()).hexdigest()
    if _read_stamp(VLLM_STAMP).get("key") == key:
        return None
    if sys.version_info < (3, 11):
        raise SetUpError(
            f"vLLM needs Python 3.11 or 3.12, not {platform.python_version()}; "
            "run: make clean, then: make PYTHON=python3.12 vllm"
        )
    _require_disk(VLLM_DISK_BYTES)
    shutil.rmtree(VLLM, ignore_errors=True)
    _run([str(VENV / "bin/python"), "-m", "venv", "--without-pip", str(VLLM)], "python -m venv")
    torch = next(line for line in VLLM_PACKAGES.read_text().splitlines() if line.startswith("torch=="))
    _install_for_vllm("--extra-index-url", TORCH_FOR_CPU, torch)
    _install_for_vllm("--requirement", str(VLLM_PACKAGES))
    VLLM_STAMP.write_text(json.dumps({"key": key}))
    return "installed"


def _install_for_vllm(*arguments: str) -> None:
    pip = [str(VENV / "bin/python"), "-m", "pip", "--python", str(VLLM / "bin/python"), "install", "--no-deps"]
    environment = {**os.environ, "PIP_CONSTRAINT": str(VLLM_PACKAGES), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    _run([*pip, "--progress-bar", "off", *arguments], "pip", environment)


# --- tritonserver ---------------------------------------------------------------------------------------------------


def _tritonserver() -> str | None:
    requirement = TRITONSERVER.read_text()
    unpacked, stamp = RUNTIME / "wheel", "requirement.txt"
    if (unpacked / stamp).is_file() and (unpacked / stamp).read_text() == requirement:
        return None
    downloads = STATE / "downloads" / "tritonserver"
    _pip("download", "--no-deps", "--require-hashes", "--dest", str(downloads), "--requirement", str(TRITONSERVER))
    staged = RUNTIME / "wheel.staged"
    shutil.rmtree(staged, ignore_errors=True)
    with zipfile.ZipFile(next(downloads.glob("nvidia_pytriton-*.whl"))) as wheel:
        for name in wheel.namelist():
            if name.startswith(("pytriton/tritonserver/", "nvidia_pytriton.libs/")):
                wheel.extract(name, staged)
    for program in (*staged.glob("pytriton/tritonserver/bin/*"), *staged.glob("**/triton_python_backend_stub")):
        program.chmod(0o755)
    (staged / stamp).write_text(requirement)
    shutil.rmtree(unpacked, ignore_errors=True)
    staged.rename(unpacked)
    shutil.rmtree(downloads, ignore_errors=True)
    return "unpacked"


# --- libpython ------------------------------------------------------------------------------------------------------


def _libpython() -> str | None:
    """Fetch the shared libpython, which the server's Python stub links and Debian's and Ubuntu's python3 lacks."""
    library = sysconfig.get_config_var("INSTSONAME")
    folders = (sysconfig.get_config_var("LIBDIR"), *DEBIAN_FILES.glob("usr/lib/*"))
    if any((Path(folder) / library).exists() for folder in folders if folder):
        return None
    _fetch_debian_package(f"libpython3.{sys.version_info.minor}")
    if not any(DEBIAN_FILES.glob(f"usr/lib/*/{library}")):
        raise SetUpError(
            f"{library} is missing and could not be fetched; install a Python with a shared library "
            f"(Debian, Ubuntu: apt-get install libpython3.{sys.version_info.minor})"
        )
    return "fetched"


def _libb64() -> str | None:
    """Fetch libb64, which perf_analyzer links and no wheel contains."""
    name = "libb64.so.0d"
    if ctypes.util.find_library("b64") == name or any(DEBIAN_FILES.glob(f"usr/lib/*/{name}")):
        return None
    _fetch_debian_package("libb64-0d")
    return "fetched"


def _fetch_debian_package(package: str) -> None:
    """Fetch a Debian or Ubuntu package and unpack it into the project's state directory, without root."""
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        raise SetUpError(f"{package} is missing, and there is no apt-get to fetch it; install it")
    apt = STATE / "downloads" / "apt"
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True, exist_ok=True)
    options = [
        f"-oDir::State::lists={apt / 'lists'}",
        f"-oDir::Cache={apt}",
        "-oDebug::NoLocking=1",
        "-oAPT::Sandbox::User=",
    ]
    print(f"set-up: fetching {package} into {DEBIAN_FILES.relative_to(PROJECT)} (not installed)", flush=True)
    _run(["apt-get", *options, "--quiet", "update"], "apt-get update")
    archives = apt / "packages"
    shutil.rmtree(archives, ignore_errors=True)
    archives.mkdir()
    _run(
        ["sh", "-c", 'cd "$0" && exec apt-get "$@"', str(archives), *options, "--quiet", "download", package],
        "apt-get download",
    )
    DEBIAN_FILES.mkdir(parents=True, exist_ok=True)
    for archive in archives.glob("*.deb"):
        _run(["dpkg-deb", "--extract", str(archive), str(DEBIAN_FILES)], "dpkg-deb")
    shutil.rmtree(apt)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
