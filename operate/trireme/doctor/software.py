"""Checks of the required software: Python and its packages, libc, tritonserver and the libraries it links."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path

from trireme_client.endpoint import PROXY_VARIABLES

from trireme.doctor.check import Check, fail, ok, warn
from trireme.errors import SetupError
from trireme.processes.ports import LOOPBACK
from trireme.processes.runtime import EmbeddedRuntime
from trireme.settings import Settings

PYTHONS = ((3, 10), (3, 11), (3, 12))
# The tritonserver wheel has the tag manylinux_2_35.
LEAST_GLIBC = (2, 35)
# Packages that the backends import in the stub.
_STUB_PACKAGES = ("onnxruntime", "tokenizers")
_LDD_DEADLINE_S = 20.0


def machine() -> Iterator[Check]:
    """The tritonserver wheel is built for Linux on x86_64."""
    found = f"{platform.system()} on {platform.machine()}"
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        yield ok("machine", found)
    else:
        yield fail("machine", f"{found}; the embedded server requires Linux on x86_64", "docker compose up")


def python(version: tuple[int, int] = (sys.version_info[0], sys.version_info[1])) -> Iterator[Check]:
    """The server has a stub for this Python."""
    found = ".".join(map(str, version))
    if version in PYTHONS:
        yield ok("python", f"{found}, {sys.executable}")
    else:
        yield fail("python", f"{found} is not one of 3.10, 3.11, 3.12", "make setup PYTHON=python3.12")


def glibc(version: str | None = None) -> Iterator[Check]:
    """The C library is recent enough for tritonserver."""
    name = version if version is not None else (os.confstr("CS_GNU_LIBC_VERSION") or "no glibc")
    number = re.search(r"(\d+)\.(\d+)", name)
    needed = ".".join(map(str, LEAST_GLIBC))
    if number and (int(number[1]), int(number[2])) >= LEAST_GLIBC:
        yield ok("glibc", f"{number[0]}, at least {needed} is required")
    else:
        yield fail(
            "glibc",
            f"{name} is older than {needed}",
            "use Debian 12, Ubuntu 22.04 or later, or docker compose up",
        )


def packages() -> Iterator[Check]:
    """The environment, which the stub uses too, has numpy 1 and the packages that the backends import."""
    numpy_version = metadata.version("numpy")
    if numpy_version.startswith("1."):
        yield ok("numpy", f"{numpy_version} in {sys.prefix}")
    else:
        yield fail(
            "numpy",
            f"{numpy_version} in {sys.prefix}; with numpy 2, the server's stub crashes at the first string tensor",
            f"{sys.executable} -m pip install 'numpy<2'",
        )
    for name in _STUB_PACKAGES:
        try:
            yield ok(name, metadata.version(name))
        except metadata.PackageNotFoundError:
            yield fail(name, f"not installed in {sys.prefix}", "make setup")


def proxies(environment: Mapping[str, str] = os.environ) -> Iterator[Check]:
    """Requests of other clients to local servers bypass HTTP proxies; this project's own requests always do."""
    named = [name for name in (*PROXY_VARIABLES, "all_proxy") if environment.get(name) or environment.get(name.upper())]
    excepted = environment.get("no_proxy") or environment.get("NO_PROXY", "")
    if not named:
        yield ok("proxies", "no environment variable sets one")
    elif LOOPBACK in excepted.split(","):
        yield ok("proxies", f"{', '.join(named)}; not for {LOOPBACK}")
    else:
        yield warn(
            "proxies",
            f"{', '.join(named)}; trireme bypasses the proxy for its own servers, curl and other clients do not",
            f'export no_proxy="{LOOPBACK},localhost"',
        )


def runtime(settings: Settings) -> Iterator[Check]:
    """tritonserver, its stub, libpython and all libraries that they link are installed."""
    try:
        found = EmbeddedRuntime.find(settings)
    except SetupError as error:
        yield fail("tritonserver", error.problem, error.fix)
        return
    yield ok("tritonserver", f"{found.server_path}")
    yield ok("libpython", f"{found.libpython_dir}")
    missing = sorted(
        {line for path in (found.server_path, found.stub_path) for line in missing_libraries(path, found.environment())}
    )
    if missing:
        yield fail("libraries", f"not found: {', '.join(missing)}", "make setup")
    else:
        yield ok("libraries", "all libraries of the server and its stub were found")


def missing_libraries(program: Path, environment: dict[str, str]) -> list[str]:
    """Shared libraries and library versions that ``program`` links but the loader does not find."""
    listed = subprocess.run(
        ["ldd", str(program)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=_LDD_DEADLINE_S,
    )
    lines = [line.strip() for line in (listed.stdout + listed.stderr).splitlines()]
    # "libx.so.1 => not found", and "...: version `GLIBC_2.38' not found (required by ...)".
    return [line.split(" => ")[0].rpartition(": ")[2] for line in lines if "not found" in line]
