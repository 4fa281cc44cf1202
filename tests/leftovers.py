"""What a ``trireme serve`` that was killed leaves: a stub without a parent that maps a region of a dead owner."""

from __future__ import annotations

import contextlib
import functools
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.deadlines import scaled

_MAP_AND_WAIT = (
    "import mmap, signal, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN); file = open(sys.argv[1], 'r+b');"
    "region = mmap.mmap(file.fileno(), 0); print('on', flush=True); sys.stdin.read()"
)


def dead_owners_region() -> str:
    """The name of a region whose owner has ended; another one each time."""
    return f"{_dead_owners_prefix()}{secrets.token_hex(4)}_shm_region_0"


@functools.cache
def _dead_owners_prefix() -> str:
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from trireme.processes.shared_memory import new_region_prefix; print(new_region_prefix(), end='')",
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        return owner.communicate(timeout=scaled(60.0))[0]


@contextlib.contextmanager
def left_stub(region: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a stub, maps ``region``, and ignores SIGTERM as stubs do."""
    with subprocess.Popen(
        ["triton_python_backend_stub", "-c", _MAP_AND_WAIT, str(region)],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as stub:
        try:
            assert stub.stdout is not None
            assert stub.stdout.readline() == b"on\n"
            yield stub
        finally:
            stub.kill()
