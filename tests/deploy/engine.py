"""A real Docker engine for the tests: the running one, or a temporary one that leaves nothing behind."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trireme.errors import ServerError, SetupError

from tests.deadlines import scaled

START_DEADLINE_SECONDS = scaled(60)
STOP_DEADLINE_SECONDS = scaled(60)


@dataclass(frozen=True, slots=True)
class Engine:
    """Address of a Docker engine: ``host`` as in ``DOCKER_HOST``, None for Docker's default."""

    host: str | None

    def docker(self, *arguments: str, deadline_seconds: float = 60) -> str:
        """Run ``docker`` and return its output.

        Raises:
            ServerError: it failed; the sentence has its last words.
        """
        return run(["docker", *arguments], self.environment(), deadline_seconds=deadline_seconds)

    def environment(self) -> dict[str, str]:
        """The environment for Docker's tools."""
        return {**os.environ, **({"DOCKER_HOST": self.host} if self.host else {})}


def run(command: Sequence[str], environment: dict[str, str], *, deadline_seconds: float) -> str:
    """Run a command and return its standard output.

    Raises:
        ServerError: it failed or ran past its deadline.
    """
    name = f"{' '.join(command):.120}"
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=scaled(deadline_seconds), check=False
        )
    except subprocess.TimeoutExpired:
        raise ServerError(f"{name} exceeded its deadline of {scaled(deadline_seconds):.0f} s") from None
    if done.returncode:
        raise ServerError(f"{name} failed with {done.returncode}: {(done.stdout + done.stderr).strip()[-3000:]}")
    return done.stdout


@contextmanager
def docker_engine(data_dir: Path) -> Iterator[Engine]:
    """The running engine (``DOCKER_HOST`` is respected), or a temporary one that is stopped after the block.

    The temporary engine stores its images in ``data_dir`` and changes neither firewall rules nor bridges.

    Raises:
        SetupError: no engine is running, and none can be started.
        ServerError: the temporary engine did not start.
    """
    running = Engine(host=None)
    if not _answers(running):
        if os.geteuid() != 0:
            raise SetupError(
                "no Docker engine is running, and only root can start one", "start Docker, or: sudo make compose-test"
            )
        install_debian_packages({"dockerd": "docker.io"})
    # With systemd, the package has started the engine by now.
    if _answers(running):
        yield running
        return
    # The path of a Unix socket is limited to 108 characters, so it cannot be below the project.
    with (
        tempfile.TemporaryDirectory(prefix="trireme-docker-") as short,
        _own_engine(data_dir, Path(short)) as engine,
    ):
        yield engine


def install_debian_packages(package_of: Mapping[str, str]) -> None:
    """Install the packages of missing programs or files (absolute paths) with apt-get.

    Raises:
        SetupError: apt-get is not available.
        ServerError: apt-get failed.
    """
    missing = [package for what, package in package_of.items() if not (shutil.which(what) or Path("/", what).exists())]
    if not missing:
        return
    if not shutil.which("apt-get"):
        raise SetupError("this machine has no apt-get", f"install {', '.join(missing)}")
    print(f"installing {', '.join(missing)} with apt-get", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "--quiet", "update"], environment, deadline_seconds=180)
    run(
        ["apt-get", "--quiet", "--yes", "--no-install-recommends", "install", *missing],
        environment,
        deadline_seconds=300,
    )


@contextmanager
def _own_engine(data_dir: Path, short: Path) -> Iterator[Engine]:
    engine = Engine(host=f"unix://{short}/docker.sock")
    log_path = data_dir.with_suffix(".log")
    data_dir.mkdir(parents=True, exist_ok=True)
    # No firewall rules and no default bridge: published ports go through docker-proxy, and builds need no network.
    # If this process is killed, it stops its containers and exits.
    command = [
        "setpriv", "--pdeathsig=TERM", "--", "dockerd",
        f"--data-root={data_dir}", f"--exec-root={short}/exec", f"--pidfile={short}/pid", f"--host={engine.host}",
        "--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false",
    ]  # fmt: skip
    with log_path.open("ab") as log:
        try:
            # Locked until the end: two daemons would corrupt the data directory.
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServerError(f"another compose-test is using {data_dir}; wait for it") from None
        log.truncate(0)
        # A separate session: Ctrl-C reaches only the tests, which then stop it gracefully.
        daemon = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _await_answer(engine, daemon, log_path)
            yield engine
        finally:
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(STOP_DEADLINE_SECONDS)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _await_answer(engine: Engine, daemon: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + START_DEADLINE_SECONDS
    while not _answers(engine):
        if daemon.poll() is not None or time.monotonic() > deadline:
            last = log_path.read_text(errors="replace").strip().splitlines()[-1:]
            raise ServerError(f"dockerd did not start: {last}; log: {log_path}")
        time.sleep(0.2)


def _answers(engine: Engine) -> bool:
    asked = ["docker", "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(asked, env=engine.environment(), capture_output=True, timeout=scaled(10)).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
