"""No room in /dev/shm, through which server and models talk: in a mount namespace, so that only this stack lacks it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from tritonclient.utils import InferenceServerException

from tests.chaos.platform_stack import PlatformStack
from tests.chaos.report import Report
from tests.chaos.scenario import scenario

_SIZE = "96m"
_LARGE_BYTES = 12 * 1024**2
_OWN_SHM = f'mount -t tmpfs -o size={_SIZE} tmpfs /dev/shm && exec "$@"'


def _why_not() -> str:
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False)
    return "" if os.geteuid() == 0 and tried.returncode == 0 else "mount namespaces need root"


pytestmark = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "there is root")


class _CrampedStack(PlatformStack):
    wrapper = ("unshare", "--mount", "sh", "-c", _OWN_SHM, "sh")

    def shm(self) -> Path:
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root/dev/shm")


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[_CrampedStack]:
    made = _CrampedStack(tmp_path)
    try:
        made.start()
        yield made
        made.stop()
    finally:
        made.kill()


def test_small_requests_are_answered_while_shared_memory_is_full(cramped: _CrampedStack, report: Report) -> None:
    with scenario(cramped, report, "/dev/shm is full") as running:
        servers = {name: cramped.server_of(name).pid for name in cramped.serving()}
        running.fault()
        filler = cramped.shm() / "filler"
        _fill(filler)
        with pytest.raises(InferenceServerException):
            _ask_large(cramped)
        time.sleep(3.0)
        filler.unlink()
        running.wait_until_well(*servers)
        assert _ask_large(cramped) == _LARGE_BYTES
        assert {name: cramped.server_of(name).pid for name in servers} == servers


def _fill(path: Path) -> None:
    """Take all that is left."""
    with path.open("wb", buffering=0) as file:
        for size in (1024**2, 4096):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def _ask_large(stack: PlatformStack) -> int:
    """The length of the answer to a text that no region has room for."""
    text = triton_grpc.InferInput("TEXT", [1, 1], "BYTES")
    text.set_data_from_numpy(np.array([[b"a" * _LARGE_BYTES]], dtype=np.object_))
    with triton_grpc.InferenceServerClient(stack.grpc_address) as client:
        result = client.infer("echo_worker", [text], client_timeout=30.0)
    return len(result.as_numpy("ANSWER")[0, 0])
